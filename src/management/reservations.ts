/** What is lent of accounts since their quotas were seen. */
import type { Router } from "express";
import type { Admin } from "../core/admin.ts";
import { loadExpress } from "./express.ts";

const iso = (ms: number): string => new Date(ms).toISOString();

/** `GET reservations`. */
export function reservationsRouter(admin: Admin): Router {
  const router = loadExpress().Router();
  router.get("/reservations", (_req, res) => {
    res.json({
      reservations: admin.reservations().map(({ since, quotas, ...view }) => ({
        ...view,
        since: since === null ? null : iso(since),
        quotas: quotas.map(({ observedAt, ...quota }) => ({ ...quota, observedAt: iso(observedAt) })),
      })),
    });
  });
  return router;
}
