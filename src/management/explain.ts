/** Why a request was decided as it was, or what would become of one. */
import type { Router } from "express";
import type { Admin } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import type { CallQuestion, Explanation } from "../core/explain.ts";
import { loadExpress } from "./express.ts";

const date = (at: number | null): string | null => (at === null ? null : new Date(at).toISOString());

function shown(explanation: Explanation): Record<string, unknown> {
  if (explanation.kind === "request") return { ...explanation, at: date(explanation.at) };
  const { at, limits, candidates, ...rest } = explanation;
  return {
    ...rest,
    at: date(at),
    limits: limits.map(({ resetsAt, ...limit }) => ({ ...limit, resetsAt: date(resetsAt) })),
    candidates: candidates.map(({ reason, ...candidate }) => ({ ...candidate, reason: reason && { ...reason, until: date(reason.until) } })),
  };
}

/** `POST explain`: `{ id }` of a past request, or `{ key | scopes, model, … }` of a call to come. */
export function explainRouter({ explain }: Pick<Admin, "explain">): Router {
  const express = loadExpress();
  const router = express.Router();

  router.post("/explain", express.json({ limit: "1mb" }), async (req, res) => {
    const question = (req.body ?? {}) as Record<string, unknown>;
    const { id, ...call } = question;
    if (id === undefined) {
      // A request of somebody's host is not one that comes as JSON.
      if ("headers" in call)
        throw new GuardError("body_invalid", "headers: describe the call by key or scopes, model and body", { param: "headers" });
      res.json(shown(await explain(call as CallQuestion)));
      return;
    }
    if (typeof id !== "string" || Object.keys(call).length > 0)
      throw new GuardError("body_invalid", "id: give the text of the x-request-id alone, or describe a call without it", { param: "id" });
    res.json(shown(await explain(id)));
  });

  return router;
}
