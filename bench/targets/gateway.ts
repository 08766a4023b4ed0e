/**
 * The whole gateway as an app mounts it: client keys, five token budgets, three credentials to choose from, fail2ban, metrics, and a ledger row per request.
 * Arguments: upstream origin, `sqlite` or `memory` for the ledger, a folder for its files, and the URL of the store if it is not this process's memory.
 */
import { join } from "node:path";
import express from "express";
import { quotaGuard } from "quotaguard";
import { CLIENTS, clientKey, MODEL } from "../workloads.ts";
import { serve, upstreamOrigin } from "./serve.ts";

const ledger = process.argv[3] === "sqlite" ? `sqlite:${join(process.argv[4] ?? ".", "quotaguard.db")}` : "memory";
/** Never empty in a run, so that every request does all the arithmetic and none is refused. */
const bucket = { capacity: 1e12, refillPerSec: 1e9 };
const limit = (scope: "global" | "team" | "rolegroup" | "role" | "user") =>
  ({ name: `${scope}-tokens`, scope, unit: "tokens", bucket, estimate: "expected" }) as const;

const gateway = quotaGuard({
  auth: {
    keys: Array.from({ length: CLIENTS }, (_, index) => ({
      name: `client-${index}`,
      key: clientKey(index),
      scopes: { team: `team-${index % 2}`, rolegroup: "staff", role: `role-${index % 4}`, user: `user-${index}` },
    })),
  },
  credentials: ["first", "second", "third"].map((name) => ({
    name,
    provider: "openai",
    apiKey: `sk-bench-${name}-0123456789`,
    baseUrl: upstreamOrigin,
    models: [MODEL],
  })),
  fail2ban: {},
  limits: [limit("global"), limit("team"), limit("rolegroup"), limit("role"), limit("user")],
  store: { url: process.argv[5] ?? "memory" },
  ledger: { url: ledger },
  secrets: { key: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" },
  monitoring: { prometheusEnabled: true },
});

const app = express();
app.use(gateway);
await gateway.ready();
serve(app, () => gateway.close());
