/** The management tree. Every route needs the key: the policy is the router's, not each route's. */
import type { Router } from "express";
import type { Admin } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import type { Secret } from "../core/secret.ts";
import type { Clock } from "../core/time.ts";
import { auditRouter } from "./audit.ts";
import { bansRouter } from "./bans.ts";
import { credentialsRouter } from "./credentials.ts";
import { explainRouter } from "./explain.ts";
import { loadExpress } from "./express.ts";
import { keysRouter } from "./keys.ts";
import { limitsRouter } from "./limits.ts";
import { requireKey } from "./key.ts";
import type { PluginEdge } from "./plugin-routes.ts";
import { problemHandler } from "./problem.ts";
import { quotasRouter } from "./quotas.ts";
import { reservationsRouter } from "./reservations.ts";
import { tokenGuardRouter } from "./token-guard.ts";
import { usageRouter } from "./usage.ts";

export interface ManagementOptions {
  readonly admin: Admin;
  /** No key = every route is 404. */
  readonly key: Secret | null;
  readonly path: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Absent = there are no plugins. */
  readonly plugins?: PluginEdge | undefined;
}

/** The routes below `/v0/management` (or wherever the host mounts it) and TokenGuard's API beside it. */
export function managementRouter(options: ManagementOptions): Router {
  const { admin, key, clock, logger, plugins } = options;
  const express = loadExpress();
  const outer = express.Router();
  if (plugins) outer.use("/plugins", plugins.open);
  if (!key) {
    outer.use(() => {
      throw new GuardError("not_found", "management is off: set management.key to switch it on");
    });
    outer.use(problemHandler(logger));
    return outer;
  }
  outer.use(requireKey(key, clock));
  outer.use((_req, res, next) => {
    res.setHeader("cache-control", "no-store");
    next();
  });

  // Before the routers that parse bodies: a plugin reads its own.
  if (plugins) outer.use("/plugins", plugins.keyed);

  outer.get("/health", (_req, res) => {
    res.json(admin.health());
  });
  outer.get("/live", (_req, res) => {
    res.json({ status: "ok" });
  });
  outer.get("/ready", (_req, res) => {
    const { status } = admin.health();
    res.status(status === "ok" ? 200 : 503).json({ status });
  });
  outer.post("/counters/open", async (_req, res) => {
    res.json({ opened: await admin.openCounters() });
  });
  outer.use("/", auditRouter(admin));
  outer.use("/", bansRouter(admin));
  outer.use("/", credentialsRouter(admin));
  outer.use("/", explainRouter(admin));
  outer.use("/", keysRouter(admin));
  outer.use("/", limitsRouter(admin));
  outer.use("/", quotasRouter(admin));
  outer.use("/", reservationsRouter(admin));
  outer.use("/", tokenGuardRouter(admin));
  outer.use("/", usageRouter(admin));
  outer.use(() => {
    throw new GuardError("not_found", "there is no such management route");
  });
  outer.use(problemHandler(logger));
  return outer;
}
