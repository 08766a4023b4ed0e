import { once } from "node:events";
import type { AddressInfo } from "node:net";
import express, { type Request } from "express";
import { contextOf, createGuard, GuardError, type GuardOptions, type LimitAbout, type QuotaGuard, type Store } from "quotaguard";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { statuses } from "./calls.cjs";

declare module "quotaguard" {
  interface CustomScopes {
    feature: string;
  }
}

const upstream: FakeUpstream = await fakeUpstream();
const store: Store = sqliteStore("./quota.db");
const scopes: GuardOptions["scopes"] = (req: Request) => ({ user: req.headers["x-login"] as string | undefined, feature: "test" });
const guard = createGuard({
  auth: { keys: [{ name: "alice", key: "qg_a-key-of-a-test-project", scopes: { user: "alice" } }] },
  scopes,
  store,
  credentials: [{ name: "main", provider: "openai", apiKey: "sk-none", baseUrl: upstream.url }],
  limits: [{ name: "calls", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }],
});
// Callbacks may name the host's own request type, wherever they stand.
const callbacks = (): unknown =>
  createGuard({
    auth: async (key, req: Request) => (key === req.get("x-key") ? { name: "alice" } : null),
    scopes: { of: (req: Request) => ({ user: req.get("x-login") }) },
    limits: [
      { name: "plan", scope: "user", unit: "usd", window: { limit: ({ req }: LimitAbout<Request>) => Number(req.get("x-plan")), per: "day" } },
    ],
  }).budgets({
    limits: ["plan"],
    cost: (req: Request) => Number(req.get("x-cost")),
    scopes: (req: Request) => ({ feature: req.path }),
    skip: (req: Request) => req.path === "/free",
    onRefused: (error, req: Request, res) => void res.end(`${req.path}: ${error.code}`),
  });
if (typeof callbacks !== "function") throw new Error("not reached");
const plain: QuotaGuard = guard;
// @ts-expect-error -- the guard has no limit of this name
const misspelt = (): unknown => guard.budgets({ limits: ["call"] });
if (!(thrownBy(misspelt) instanceof Error)) throw new Error("a limit that is not there was taken");

function thrownBy(fn: () => unknown): unknown {
  try {
    return fn();
  } catch (error) {
    return error;
  }
}

const app = express();
app.use("/llm", guard.handler());
app.post(
  "/own",
  guard.budgets({ limits: [{ name: "own-calls", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] }),
  (req, res) => void res.json({ object: contextOf(req).scopes.user }),
);
app.use(guard.errorHandler());
const server = app.listen(0, "127.0.0.1");
await once(server, "listening");
await plain.ready();
const { port } = server.address() as AddressInfo;
const gateway = await statuses(port, "/llm/v1/chat/completions", "qg_a-key-of-a-test-project");
const route = await statuses(port, "/own", "");
console.log(JSON.stringify({ gateway, route, sent: upstream.log.length }));
server.close();
await guard.close();
await upstream.close();
if (GuardError.from(new Error("somebody else's")) !== undefined) throw new Error("that was not ours");
