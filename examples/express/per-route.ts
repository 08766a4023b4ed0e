// A budget on a route that you already have; no proxy: `npm run example:per-route`.
// The handler calls whatever SDK it likes and reports what was used. The official client talks to a scripted provider here.
import express from "express";
import OpenAI from "openai";
import { contextOf, createGuard } from "quotaguard";
import { fakeUpstream } from "quotaguard/testing";

const upstream = await fakeUpstream({ delayMs: 30 });
const openai = new OpenAI({ apiKey: "sk-not-a-real-key", baseURL: `${upstream.url}/v1` });

const guard = createGuard({
  store: { url: "memory" },
  // Your own login says who it is; here a header does.
  scopes: (req) => ({ user: req.headers["x-login"] as string | undefined }),
  models: [{ name: "gpt-4o", price: { inputPerMtok: 2.5, outputPerMtok: 10 } }],
  limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 0.02, per: "day" } }],
});

const app = express();
app.use(express.json());
app.post("/summarise", guard.budgets({ limits: ["user-day"], cost: { model: "gpt-4o", maxOutputTokens: 800 } }), async (req, res) => {
  const { text = "" } = req.body as { text?: string };
  const stream = await openai.chat.completions.create(
    {
      model: "gpt-4o",
      messages: [{ role: "user", content: `Summarise: ${text}` }],
      max_tokens: 800,
      stream: true,
      stream_options: { include_usage: true },
    },
    { signal: contextOf(req).signal },
  );
  for await (const chunk of stream) {
    contextOf(req).meter(chunk);
    res.write(chunk.choices[0]?.delta?.content ?? "");
  }
  // Settles when the response closes.
  res.end("\n");
});

const port = Number(process.env.PORT ?? 8318);
app.listen(port, "127.0.0.1", (error) => {
  if (error) throw error;
  console.log(`Each call holds 0.8 cents and settles what it used; a day has 2 cents. Without a login it is a 400:

  curl -i http://127.0.0.1:${port}/summarise -H 'x-login: alice' -H 'Content-Type: application/json' -d '{"text":"a long story about quotas"}'
  curl -i http://127.0.0.1:${port}/summarise -H 'Content-Type: application/json' -d '{"text":"who am I?"}'
`);
});
