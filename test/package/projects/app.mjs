import { once } from "node:events";
import express from "express";
import { contextOf, createGuard } from "quotaguard";
import { fakeUpstream } from "quotaguard/testing";
import { statuses } from "./calls.cjs";

const upstream = await fakeUpstream();
const guard = createGuard({
  auth: { keys: [{ name: "alice", key: "qg_a-key-of-a-test-project", scopes: { user: "alice" } }] },
  scopes: (req) => ({ user: req.headers["x-login"] }),
  credentials: [{ name: "main", provider: "openai", apiKey: "sk-none", baseUrl: upstream.url }],
  limits: [{ name: "calls", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }],
  store: { url: "sqlite:./quota.db" },
});
const app = express();
app.use("/llm", guard.handler());
const own = { name: "own-calls", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } };
app.post("/own", guard.budgets({ limits: [own] }), (req, res) => res.json({ object: contextOf(req).scopes.user }));
const server = app.listen(0, "127.0.0.1");
await once(server, "listening");
await guard.ready();
const { port } = server.address();
const gateway = await statuses(port, "/llm/v1/chat/completions", "qg_a-key-of-a-test-project");
const route = await statuses(port, "/own", "");
console.log(JSON.stringify({ gateway, route, sent: upstream.log.length }));
server.close();
await guard.close();
await upstream.close();
