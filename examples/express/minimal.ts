// The least that makes a gateway: `npm run example:minimal`.
import express from "express";
import { quotaGuard } from "quotaguard";
import { fakeUpstream } from "quotaguard/testing";

const upstream = await fakeUpstream();
const app = express();
app.use(
  "/llm",
  quotaGuard({
    auth: { keys: [{ name: "alice", key: "qg_example-key-of-alice", scopes: { user: "alice" } }] },
    credentials: [{ name: "main", provider: "openai", apiKey: "sk-not-a-real-key", baseUrl: upstream.url }],
    limits: [{ name: "user-minute", scope: "user", unit: "requests", window: { limit: 3, per: "minute" } }],
  }),
);

const port = Number(process.env.PORT ?? 8318);
app.listen(port, "127.0.0.1", (error) => {
  if (error) throw error;
  console.log(`Three calls a minute pass, the fourth is a 429:

  curl -i http://127.0.0.1:${port}/llm/v1/chat/completions -H 'Authorization: Bearer qg_example-key-of-alice' -H 'Content-Type: application/json' -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
`);
});
