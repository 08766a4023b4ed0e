/** What is left of the accounts. */
import type { Router } from "express";
import type { AccountQuotas, Admin } from "../core/admin.ts";
import { loadExpress } from "./express.ts";

const date = (at: number | null): string | null => (at === null ? null : new Date(at).toISOString());

const shown = ({ quotas, ...account }: AccountQuotas): Record<string, unknown> => ({
  ...account,
  quotas: quotas.map(({ resetsAt, observedAt, ...group }) => ({ ...group, resetsAt: date(resetsAt), observedAt: date(observedAt) })),
});

/** `GET quotas`. */
export function quotasRouter(admin: Pick<Admin, "quotas">): Router {
  const express = loadExpress();
  const router = express.Router();
  router.get("/quotas", (_req, res) => {
    res.json({ quotas: admin.quotas().map(shown) });
  });
  return router;
}
