// A plugin of your own, as a third party would write it: `npm run example:plugin`.
// It adds up what each user has spent, keeps the sums in the guard's store, and answers on a route of its own.
import express from "express";
import { contextOf, createGuard, definePlugin, jsonAnswer } from "quotaguard";

/** What a plugin exports: a function of its options that returns the plugin. */
function spending({ snapshotMs = 1_000 } = {}) {
  const usd = new Map<string, number>();
  return definePlugin({
    name: "spending",
    async setup(host) {
      // Nobody else sees these records; a shared store would share them.
      for (const { key, value } of await host.records.list("user/")) usd.set(key.slice("user/".length), Number(value));

      host.on("request", ({ scopes, costUsd }) => {
        if (scopes.user !== undefined && costUsd !== null) usd.set(scopes.user, (usd.get(scopes.user) ?? 0) + costUsd);
      });

      const snapshot = async (): Promise<void> => {
        for (const [user, sum] of usd) await host.records.put(`user/${user}`, sum);
      };
      host.every(snapshotMs, snapshot);

      // GET …/plugins/spending/status, for everybody; without `public` it would ask for the management key.
      host.route("/status", (ctx) => jsonAnswer({ user: ctx.query.get("user"), usd: usd.get(ctx.query.get("user") ?? "") ?? 0 }), { public: true });

      host.logger.info({ users: usd.size }, "spending is counted");
      return snapshot;
    },
    /** The plugin's own API, for the host's code. */
    of: (user: string): number => usd.get(user) ?? 0,
  });
}

const spent = spending();
const guard = createGuard({
  auth: false,
  store: { url: "sqlite:./data/plugin.db" },
  // Your own login says who it is; here a header does.
  scopes: (req) => ({ user: req.headers["x-login"] as string | undefined }),
  limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } }],
  plugins: [spent],
});

const app = express();
app.use("/llm", guard.handler());
app.post("/draw", guard.budgets({ limits: ["user-day"], cost: 0.05 }), (req, res) => {
  contextOf(req).meter({ usd: 0.04 });
  res.json({ picture: "(-_-)", spentBefore: spent.of(String(req.headers["x-login"])) });
});

const port = Number(process.env.PORT ?? 8318);
await guard.ready();
const server = app.listen(port, "127.0.0.1", (error) => {
  if (error) throw error;
  console.log(`A picture costs 4 cents. The plugin counts what each user has spent, also after a restart:

  curl -i -X POST http://127.0.0.1:${port}/draw -H 'x-login: alice'
  curl -i 'http://127.0.0.1:${port}/llm/v0/management/plugins/spending/status?user=alice'
`);
});
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => server.close(() => void guard.close()));
