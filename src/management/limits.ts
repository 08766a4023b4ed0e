/** Limits as they are, and numbers for single values. */
import type { Router } from "express";
import type { Admin } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import type { LimitValueView, LimitView, NewLimitNumbers } from "../core/limit-admin.ts";
import { loadExpress } from "./express.ts";

const shownValue = ({ until, ...value }: LimitValueView): Record<string, unknown> => ({
  ...value,
  until: until === null ? null : new Date(until).toISOString(),
});

const shown = ({ values, ...limit }: LimitView): Record<string, unknown> => ({ ...limit, values: values.map(shownValue) });

/** `GET limits`, `PUT|DELETE limits/:name/values/:value`. */
export function limitsRouter({ limits }: Pick<Admin, "limits">): Router {
  const express = loadExpress();
  const router = express.Router();

  router.get("/limits", (_req, res) => {
    res.json({ limits: limits.list().map(shown) });
  });
  router.put("/limits/:name/values/:value", express.json({ limit: "10kb" }), async (req, res) => {
    const { name, value } = req.params;
    res.json(shownValue(await limits.set(name, value, (req.body ?? {}) as NewLimitNumbers)));
  });
  router.delete("/limits/:name/values/:value", async (req, res) => {
    const { name, value } = req.params;
    if (!(await limits.reset(name, value))) throw new GuardError("not_found", "nothing was set for this value; GET limits lists what is");
    res.json({ reset: value });
  });

  return router;
}
