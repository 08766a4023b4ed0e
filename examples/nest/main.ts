// A gateway and a guarded route in one Nest app, in front of a scripted provider: `npm run example:nest`.
import "reflect-metadata";
import { randomBytes } from "node:crypto";
import { NestFactory } from "@nestjs/core";
import { fakeUpstream } from "quotaguard/testing";
import { AppModule } from "./app.module.js";

const port = Number(process.env.PORT ?? 8318);
const key = `qg_${randomBytes(24).toString("base64url")}`;

// Stands in for OpenAI, so that nothing here needs an account.
const upstream = await fakeUpstream({ delayMs: 30 });
const app = await NestFactory.create(AppModule.forRoot({ upstream: upstream.url, key }), { logger: ["error", "warn"] });
try {
  await app.listen(port, "127.0.0.1");
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
  console.error(`Port ${port} is in use; stop what uses it, or choose another: PORT=8319 npm run example:nest`);
  process.exit(1);
}

console.log(`
QuotaGuard is in your Nest app at http://127.0.0.1:${port} (gateway at /llm, provider scripted)

  gateway    curl -sN -w '\\n' http://127.0.0.1:${port}/llm/v1/chat/completions -H 'Authorization: Bearer ${key}' -H 'Content-Type: application/json' -d '{"model":"gpt-4o","max_tokens":400,"messages":[{"role":"user","content":"Hello from my own app"}]}'

  route      curl -sN -w '\\n' http://127.0.0.1:${port}/summarise -H 'Authorization: Bearer token-of-alice' -H 'Content-Type: application/json' -d '{"text":"a long story about quotas"}'

Each holds what it may cost of two cents a day and settles what it did cost. Ctrl-C stops it after open requests have finished.
`);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    void app.close().then(() => upstream.close());
  });
}
