// The whole gateway in an Express app, with its state in ./data, in front of a scripted provider: `npm start`.
import { randomBytes } from "node:crypto";
import express from "express";
import { quotaGuard } from "quotaguard";
import { fakeUpstream } from "quotaguard/testing";

const port = Number(process.env.PORT ?? 8318);
const key = `qg_${randomBytes(24).toString("base64url")}`;

// Stands in for OpenAI, so that nothing here needs an account. Put your own `apiKey` below and drop `baseUrl` for the real one.
const upstream = await fakeUpstream({ delayMs: 60 });

const gateway = quotaGuard({
  auth: { keys: [{ name: "alice", key, scopes: { team: "demo", user: "alice" } }] },
  credentials: [{ name: "scripted", provider: "openai", apiKey: "sk-not-a-real-key", baseUrl: upstream.url }],
  models: [{ name: "gpt-4o-mini", price: { inputPerMtok: 0.15, outputPerMtok: 0.6 } }],
  limits: [
    { name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 5_000, refillPerSec: 25 } },
    { name: "team-day", scope: "team", unit: "usd", window: { limit: 1, per: "day" } },
  ],
  store: { url: "sqlite:./data/quotaguard.db" },
});

const app = express();
app.use(gateway);
app.get("/", (_req, res) => {
  res.send("This is the host app's own page. The gateway answers /v1/chat/completions beside it.\n");
});

await gateway.ready();
const server = app.listen(port, "127.0.0.1", (error) => {
  if (error) {
    console.error(`Port ${port} is in use; stop what uses it, or choose another: PORT=8319 npm start`);
    process.exit(1);
  }
  const call = (body: string) =>
    `curl -sN -w '\\n' http://127.0.0.1:${port}/v1/chat/completions -H 'Authorization: Bearer ${key}' -H 'Content-Type: application/json' -d '${body}'`;
  console.log(`
QuotaGuard is in your Express app at http://127.0.0.1:${port} (state in ./data, provider scripted)

  key        ${key}

  JSON       ${call('{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello from my own app"}]}')}

  streaming  ${call('{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Tell me about token buckets, one word at a time"}]}')}

Ask for more than is left ("max_tokens": 6000) to see a refusal. Ctrl-C stops it after open requests have finished.
`);
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    server.close();
    void gateway.close().then(() => upstream.close());
  });
}
