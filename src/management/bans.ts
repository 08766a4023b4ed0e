/** What is kept out, and letting it in again: bans and cooldowns of credentials, bans of clients. */
import type { Request, Router } from "express";
import type { Admin, BlockView } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import { loadExpress } from "./express.ts";

const iso = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());

const shown = ({ since, until, ...block }: BlockView): Record<string, unknown> => ({ ...block, since: iso(since), until: iso(until) });

/** `GET|DELETE bans`, `cooldowns` and `client-bans`. */
export function bansRouter(admin: Admin): Router {
  const router = loadExpress().Router();

  router.get("/bans", (_req, res) => {
    res.json({ bans: admin.bans().map(shown) });
  });
  router.delete("/bans/:credential", (req, res) => {
    res.json({ lifted: admin.liftBans(credentialOf(req, admin.bans()), modelOf(req)) });
  });
  router.get("/cooldowns", (_req, res) => {
    res.json({ cooldowns: admin.cooldowns().map(shown) });
  });
  router.delete("/cooldowns/:credential", (req, res) => {
    res.json({ cleared: admin.clearCooldowns(credentialOf(req, admin.cooldowns()), modelOf(req)) });
  });
  router.get("/client-bans", (_req, res) => {
    res.json({ bans: admin.clientBans().map(({ since, until, ...ban }) => ({ ...ban, since: iso(since), until: iso(until) })) });
  });
  router.delete("/client-bans/:client", (req, res) => {
    if (!admin.liftClientBan(req.params.client)) throw new GuardError("not_found", "this client is not banned; GET client-bans lists those that are");
    res.json({ lifted: 1 });
  });

  /** One that is configured, or that was when it was banned. */
  function credentialOf(req: Request<{ credential: string }>, blocks: readonly BlockView[]): string {
    const { credential } = req.params;
    if (blocks.some((block) => block.credential === credential)) return credential;
    if (admin.health().credentials.some(({ name }) => name === credential)) return credential;
    throw new GuardError("not_found", "there is no credential of this name; GET health lists them");
  }

  function modelOf(req: Request<{ credential: string }>): string | null {
    const { model } = req.query;
    if (model === undefined) return null;
    if (typeof model === "string" && model !== "") return model;
    throw new GuardError("body_invalid", "model must be given once, and not empty", { param: "model" });
  }

  return router;
}
