// The parts one by one, on a path of your choice, with your own middleware between them: `npm run example:composed`.
import express from "express";
import { createGuard } from "quotaguard";
import { fakeUpstream } from "quotaguard/testing";

const upstream = await fakeUpstream({ delayMs: 30 });

const guard = createGuard({
  auth: {
    keys: [
      { name: "alice", key: "qg_example-key-of-alice", scopes: { team: "data", user: "alice" } },
      { name: "batch", key: "qg_example-key-of-batch", scopes: { team: "data" }, models: ["gpt-4o-mini"] },
    ],
  },
  credentials: [
    { name: "first", provider: "openai", apiKey: "sk-not-a-real-key-1", baseUrl: upstream.url },
    { name: "second", provider: "openai", apiKey: "sk-not-a-real-key-2", baseUrl: upstream.url },
  ],
  limits: [{ name: "team-tokens", scope: "team", unit: "tokens", bucket: { capacity: 2_000, refillPerSec: 10 } }],
});
guard.events.on("request", ({ requestId, credential, usage, code }) => console.log({ requestId, credential, usage, code }));

const app = express();
app.post(
  "/api/v1/chat/completions",
  guard.auth(),
  guard.scopes(),
  (_req, res, next) => {
    res.setHeader("x-served-by", "the host app");
    next();
  },
  guard.budgets(),
  guard.credentials(),
  guard.proxy(),
);

const port = Number(process.env.PORT ?? 8318);
app.listen(port, "127.0.0.1", (error) => {
  if (error) throw error;
  console.log(`Two keys share one team's bucket; the second may only use gpt-4o-mini:

  curl -i http://127.0.0.1:${port}/api/v1/chat/completions -H 'Authorization: Bearer qg_example-key-of-alice' -H 'Content-Type: application/json' -d '{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
  curl -i http://127.0.0.1:${port}/api/v1/chat/completions -H 'Authorization: Bearer qg_example-key-of-batch' -H 'Content-Type: application/json' -d '{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
`);
});
