import "reflect-metadata";
import type { AddressInfo } from "node:net";
import { Body, Controller, Injectable, Module, Post } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import type { NestExpressApplication } from "@nestjs/platform-express";
import type { Request } from "express";
import type { RequestQuota } from "quotaguard";
// oxlint-disable-next-line typescript/consistent-type-imports -- the metadata of decorators needs QuotaGuardService at run time
import { Budget, Quota, QuotaGuardModule, QuotaGuardService } from "quotaguard/nest";
import { fakeUpstream } from "quotaguard/testing";
import { statuses } from "./calls.cjs";

@Injectable()
class Texts {
  readonly #guard: QuotaGuardService;

  constructor(guard: QuotaGuardService) {
    this.#guard = guard;
  }

  answer(quota: RequestQuota, body: object): object {
    return { object: quota.scopes.user, fields: Object.keys(body), status: this.#guard.admin.health().status };
  }
}

@Controller()
class OwnController {
  readonly #texts: Texts;

  /** Injected by what the compiler wrote down of its type. */
  constructor(texts: Texts) {
    this.#texts = texts;
  }

  @Post("own")
  @Budget("own-calls")
  own(@Quota() quota: RequestQuota, @Body() body: object): object {
    return this.#texts.answer(quota, body);
  }
}

async function main(): Promise<void> {
  const upstream = await fakeUpstream();

  @Module({
    imports: [
      QuotaGuardModule.forRoot({
        mount: "/llm",
        auth: { keys: [{ name: "alice", key: "qg_a-key-of-a-test-project", scopes: { user: "alice" } }] },
        scopes: (req: Request) => ({ user: req.headers["x-login"] as string | undefined }),
        credentials: [{ name: "main", provider: "openai", apiKey: "sk-none", baseUrl: upstream.url }],
        limits: [
          { name: "calls", scope: "key", unit: "requests", window: { limit: 1, per: "hour" }, required: false },
          { name: "own-calls", scope: "user", unit: "requests", window: { limit: 2, per: "hour" } },
        ],
      }),
    ],
    providers: [Texts],
    controllers: [OwnController],
  })
  class AppModule {}

  const app = await NestFactory.create<NestExpressApplication>(AppModule, { logger: ["error"], abortOnError: false });
  await app.listen(0, "127.0.0.1");
  const { port } = app.getHttpServer().address() as AddressInfo;
  const gateway = await statuses(port, "/llm/v1/chat/completions", "qg_a-key-of-a-test-project");
  const route = await statuses(port, "/own", "");
  console.log(JSON.stringify({ gateway, route, sent: upstream.log.length }));
  await app.close();
  await upstream.close();
}

void main();
