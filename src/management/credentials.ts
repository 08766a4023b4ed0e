/** The credentials as they stand, and pausing them. What they are made of is never shown. */
import type { Router } from "express";
import { z } from "zod";
import type { Admin, CredentialView } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import { loadExpress } from "./express.ts";

const iso = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());

const shown = ({ until, quotas, models, ...credential }: CredentialView): Record<string, unknown> => ({
  ...credential,
  until: iso(until),
  quotas: quotas.map(({ credential: _credential, resetsAt, observedAt, ...fact }) => ({
    ...fact,
    resetsAt: iso(resetsAt),
    observedAt: iso(observedAt),
  })),
  models: models.map((model) => ({ ...model, until: iso(model.until) })),
});

const until = z
  .union([z.number(), z.string()], "until must be an ISO date or ms since the epoch")
  .transform((value) => (typeof value === "number" ? value : Date.parse(value)))
  .pipe(z.number("until must be an ISO date or ms since the epoch"));

const Patch = z.strictObject({
  disabled: z.boolean("disabled must be true or false"),
  until: until.nullable().default(null),
  reason: z.string("reason must be text").optional(),
});

const DEFAULT_REASON = "paused by an operator";

/** `GET credentials`, `GET credentials/:name`, `PATCH credentials/:name`. */
export function credentialsRouter(admin: Admin): Router {
  const express = loadExpress();
  const router = express.Router();

  function viewOf(name: string): CredentialView {
    const found = admin.credentials().find((credential) => credential.name === name);
    if (!found) throw new GuardError("not_found", "there is no credential of this name; GET credentials lists them");
    return found;
  }

  router.get("/credentials", (_req, res) => {
    res.json({ credentials: admin.credentials().map(shown) });
  });
  router.get("/credentials/:name", (req, res) => {
    res.json(shown(viewOf(req.params.name)));
  });
  router.patch("/credentials/:name", express.json({ limit: "10kb" }), async (req, res) => {
    const body = Patch.safeParse(req.body);
    if (!body.success) {
      const issue = body.error.issues[0];
      const param = issue?.path.join(".");
      throw new GuardError("body_invalid", issue?.message ?? "the body is not valid", param ? { param } : {});
    }
    const { name } = req.params;
    const { disabled, until: end, reason } = body.data;
    viewOf(name);
    if (disabled) await admin.pause(name, { reason: reason ?? DEFAULT_REASON, until: end });
    else if (end !== null || reason !== undefined) throw new GuardError("body_invalid", "until and reason go with disabled: true");
    else await admin.resume(name);
    res.json(shown(viewOf(name)));
  });

  return router;
}
