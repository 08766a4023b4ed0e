/** What the ledger adds up to: JSON for programs, CSV for spreadsheets. */
import type { Router } from "express";
import type { Admin } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import { hint } from "../core/nearest.ts";
import { LEDGER_FIELDS } from "../core/store.ts";
import type { UsageQuery } from "../core/usage-report.ts";
import { checkedUsageQuery } from "../options/usage-query.ts";
import { loadExpress } from "./express.ts";
import { timeText } from "./query.ts";
import { usageCsv } from "./usage-csv.ts";

const SCOPES = ["org", "team", "user"] as const;
const FORMATS = ["json", "csv"];
const PARAMETERS = ["from", "to", "group_by", ...SCOPES, ...LEDGER_FIELDS, "scope.<name>", "format"];

const invalid = (param: string, message: string): GuardError => new GuardError("body_invalid", `${param}: ${message}`, { param });

/** `GET usage/ledger` */
export function usageRouter({ usage }: Pick<Admin, "usage">): Router {
  const express = loadExpress();
  const router = express.Router();

  router.get("/usage/ledger", async (req, res) => {
    const { format, query } = questionOf(req.query);
    const { groupBy } = checkedUsageQuery(query, "file");
    const wanted = format ?? req.accepts(["application/json", "text/csv"]);
    const rows = await usage(query);
    if (wanted !== "csv" && wanted !== "text/csv") return void res.json({ usage: rows });
    res.setHeader("content-disposition", 'attachment; filename="usage.csv"');
    res.type("text/csv").send(usageCsv(rows, groupBy));
  });

  return router;
}

function questionOf(given: Readonly<Record<string, unknown>>): { readonly format: string | undefined; readonly query: UsageQuery } {
  const query: Record<string, unknown> = {};
  const scopes: Record<string, string> = {};
  let format: string | undefined;
  for (const [name, value] of Object.entries(given)) {
    if (typeof value !== "string") throw invalid(name, "is given more than once");
    const [, scope = null] = /^scope\.(.+)$/.exec(name) ?? [];
    if (scope !== null || (SCOPES as readonly string[]).includes(name)) scopes[scope ?? name] = value;
    else if (name === "from" || name === "to") query[name] = timeText(value);
    else if (name === "group_by") query.groupBy = value === "" ? [] : value.split(",");
    else if (name === "format" && FORMATS.includes(value)) format = value;
    else if ((LEDGER_FIELDS as readonly string[]).includes(name)) query[name] = value;
    else if (name === "format") throw invalid(name, `expected one of ${FORMATS.join(", ")}`);
    else throw invalid(name.slice(0, 64), `unknown parameter${hint(name, PARAMETERS)}; known: ${PARAMETERS.join(", ")}`);
  }
  return { format, query: { ...query, scopes } };
}
