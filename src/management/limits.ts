/** Limits as they are, and numbers for single values. */
import type { Router } from "express";
import type { Admin } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import type { LimitChange, LimitValueView, LimitView, NewLimitNumbers, ShadowReport, WouldRefuse } from "../core/limit-admin.ts";
import { loadExpress } from "./express.ts";

const date = (at: number | null): string | null => (at === null ? null : new Date(at).toISOString());

const shownValue = ({ until, ...value }: LimitValueView): Record<string, unknown> => ({
  ...value,
  until: date(until),
});

const shown = ({ values, enforceFrom, ...limit }: LimitView): Record<string, unknown> => ({
  ...limit,
  enforceFrom: date(enforceFrom),
  values: values.map(shownValue),
});

const shownTally = ({ firstAt, lastAt, ...tally }: WouldRefuse): Record<string, unknown> => ({
  ...tally,
  firstAt: date(firstAt),
  lastAt: date(lastAt),
});

const shownReport = ({ enforceFrom, from, values, other, ...report }: ShadowReport): Record<string, unknown> => ({
  ...report,
  enforceFrom: date(enforceFrom),
  from: date(from),
  values: values.map(shownTally),
  other: other && shownTally(other),
});

/** `GET limits`, `PATCH limits/:name`, `DELETE limits/:name/settings`, `PUT|DELETE limits/:name/values/:value`, `GET limits/:name/shadow`. */
export function limitsRouter({ limits }: Pick<Admin, "limits">): Router {
  const express = loadExpress();
  const router = express.Router();

  router.get("/limits", (_req, res) => {
    res.json({ limits: limits.list().map(shown) });
  });
  router.patch("/limits/:name", express.json({ limit: "10kb" }), async (req, res) => {
    res.json(shown(await limits.update(req.params.name, (req.body ?? {}) as LimitChange)));
  });
  router.delete("/limits/:name/settings", async (req, res) => {
    const { name } = req.params;
    if (!(await limits.reset(name)))
      throw new GuardError("not_found", "nothing was set for this limit; GET limits (quotaguard limits list) lists what is");
    res.json({ reset: name });
  });
  router.get("/limits/:name/shadow", async (req, res) => {
    res.json(shownReport(await limits.shadow(req.params.name)));
  });
  router.put("/limits/:name/values/:value", express.json({ limit: "10kb" }), async (req, res) => {
    const { name, value } = req.params;
    res.json(shownValue(await limits.set(name, value, (req.body ?? {}) as NewLimitNumbers)));
  });
  router.delete("/limits/:name/values/:value", async (req, res) => {
    const { name, value } = req.params;
    if (!(await limits.reset(name, value)))
      throw new GuardError("not_found", "nothing was set for this value; GET limits (quotaguard limits list) lists what is");
    res.json({ reset: value });
  });

  return router;
}
