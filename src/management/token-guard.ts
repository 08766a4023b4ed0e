/** TokenGuard's budget API, with its answer shapes, behind the management key. */
import type { RequestHandler, Router } from "express";
import { z } from "zod";
import type { Admin } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import { loadExpress } from "./express.ts";

const SCOPES = ["global", "team", "rolegroup", "role", "user"] as const;

const invalid = (detail: string, param?: string): GuardError => new GuardError("body_invalid", detail, { param });

const amount = (name: string) => z.number(`${name} must be a number`).nonnegative(`${name} must be non-negative`).max(4e15, `${name} is too large`);
const id = z.string().regex(/^[A-Za-z0-9._@:-]{1,128}$/, "id must be 1 to 128 characters of A-Z a-z 0-9 . _ @ : -");

const Budget = z.strictObject({
  scope: z.enum(SCOPES, "invalid scope"),
  id: id.optional(),
  org: id.optional(),
  capacity: amount("capacity").int("capacity must be a whole number").optional(),
  refillPerSec: amount("refillPerSec").optional(),
});

const RefillRate = z.strictObject({ userId: id, refillPerSec: amount("refillPerSec") });

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw invalid(issue?.message ?? "the body is not valid", issue?.path.join("."));
}

/** `POST /config/budget`, `POST /config/refill-rate`, `GET /buckets/…`, `GET|POST /sync/openai-limits`. */
export function tokenGuardRouter(admin: Admin): Router {
  const express = loadExpress();
  const router = express.Router();
  router.use(express.json({ limit: "100kb" }));

  router.post("/config/budget", async (req, res) => {
    const { scope, id: given, org, capacity, refillPerSec } = parse(Budget, req.body);
    if (scope !== "global" && given === undefined) throw invalid("id required for non-global scope", "id");
    if (scope === "global" && given !== undefined) throw invalid("scope global has no id", "id");
    const bucket = await admin.setBucket(
      { scope, id: given, org },
      { ...(capacity === undefined ? {} : { capacity }), ...(refillPerSec === undefined ? {} : { refillPerSec }) },
    );
    res.json({ ok: true, scope: scope === "global" ? "global" : `${scope}:${given}`, bucket });
  });

  router.post("/config/refill-rate", async (req, res) => {
    const { userId, refillPerSec } = parse(RefillRate, req.body);
    const bucket = await admin.setBucket({ scope: "user", id: userId }, { refillPerSec });
    res.json({ ok: true, userId, refillPerSec, bucket });
  });

  router.get("/buckets/global", async (_req, res) => {
    res.json({ scope: "global", bucket: await admin.bucket({ scope: "global" }) });
  });

  router.get("/buckets/:scope/:id", async (req, res) => {
    const scope = z.enum(SCOPES).safeParse(req.params.scope);
    if (!scope.success) throw invalid("invalid scope", "scope");
    if (scope.data === "global") throw invalid("scope global has no id; use /buckets/global", "scope");
    const value = parse(id, req.params.id);
    const org = req.query.org === undefined ? undefined : parse(id, req.query.org);
    res.json({ scope: `${scope.data}:${value}`, bucket: await admin.bucket({ scope: scope.data, id: value, org }) });
  });

  // GET has always changed something here: kept for scripts that use it, POST is what new ones should call.
  const sync: RequestHandler = async (_req, res) => {
    const { status, message, headers, bucket } = await admin.syncLimits();
    const global = bucket && { tokens: bucket.tokens, capacity: bucket.capacity, refill_per_sec: bucket.refillPerSec };
    res.json({ status, message, ...(status === "skipped" ? { reason: message } : {}), headers, ...headers, global_bucket: global });
  };
  router.get("/sync/openai-limits", sync);
  router.post("/sync/openai-limits", sync);
  return router;
}
