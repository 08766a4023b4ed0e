// A Nest app that ends by a signal. It is the module alone.
import "reflect-metadata";
import { NestFactory } from "@nestjs/core";
import { QuotaGuardModule } from "quotaguard/nest";

const app = await NestFactory.create(
  QuotaGuardModule.forRoot({
    mount: "/llm",
    auth: { keys: [{ name: "alice", key: process.env.KEY, scopes: { user: "alice" } }] },
    credentials: [{ name: "main", provider: "openai", apiKey: "sk-none", baseUrl: process.env.UPSTREAM }],
    store: { url: process.env.STORE },
    limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 10_000, refillPerSec: 0 } }],
  }),
  { logger: false },
);
app.enableShutdownHooks();
await app.listen(0, "127.0.0.1");
console.log(`http://127.0.0.1:${app.getHttpServer().address().port}`);
