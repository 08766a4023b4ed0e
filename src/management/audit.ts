/** The books, gone through while the caller waits. */
import type { Router } from "express";
import { z } from "zod";
import type { Admin } from "../core/admin.ts";
import { loadExpress } from "./express.ts";
import { parsedQuery, time } from "./query.ts";

const iso = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());

const AuditQuery = z.strictObject({ from: time.optional(), to: time.optional() });

/** `GET audit?from=&to=`: what is too much for one answer goes on at `next`. */
export function auditRouter(admin: Pick<Admin, "audit">): Router {
  const router = loadExpress().Router();

  router.get("/audit", async (req, res) => {
    const { from, to } = parsedQuery(AuditQuery, req.query);
    const gone = new AbortController();
    // Nobody reads an answer that nobody waits for.
    res.once("close", () => gone.abort());
    const report = await admin.audit({ ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }), signal: gone.signal });
    res.json({ ...report, from: iso(report.from), to: iso(report.to), next: iso(report.next), checkedAt: iso(report.checkedAt) });
  });

  return router;
}
