// The gateway in a Nest app: each way of mounting it, in each kind of app.
import { Controller, Get, Module, RequestMethod, VersioningType, type MiddlewareConsumer, type NestModule, type Type } from "@nestjs/common";
import type { NestExpressApplication } from "@nestjs/platform-express";
import { beforeAll, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { QuotaGuardModule, QuotaGuardService } from "quotaguard/nest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { gatewayOptions, KEY } from "../helpers/app.ts";
import { closingAll, created, started, type StartOptions } from "./nest-kit.ts";

closingAll();

let upstream: FakeUpstream;
beforeAll(async () => {
  upstream = await fakeUpstream();
  return () => upstream.close();
});

@Controller(["models", "shop/v1/models"])
class HostModels {
  @Get()
  list() {
    return ["the host's own"];
  }
}

type Routes = Parameters<ReturnType<MiddlewareConsumer["apply"]>["forRoutes"]>[0];

const options = (): GuardOptions => gatewayOptions(upstream);

function byOption(mount: string): Type {
  @Module({ imports: [QuotaGuardModule.forRoot({ ...options(), mount })], controllers: [HostModels] })
  class App {}
  return App;
}

function byConsumer(routes: Routes): Type {
  @Module({ imports: [QuotaGuardModule.forRoot(options())], controllers: [HostModels] })
  class App implements NestModule {
    readonly guard: QuotaGuardService;
    constructor(guard: QuotaGuardService) {
      this.guard = guard;
    }
    configure(consumer: MiddlewareConsumer): void {
      consumer.apply(this.guard.handler()).forRoutes(routes);
    }
  }
  return App;
}

function byMain(): Type {
  @Module({ imports: [QuotaGuardModule.forRoot(options())], controllers: [HostModels] })
  class App {}
  return App;
}

const mountInMain = (app: NestExpressApplication): void => void app.use("/llm", app.get(QuotaGuardService).handler());

const ask = (url: string, body: object = {}): Promise<Response> =>
  fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${KEY}` },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }], ...body }),
  });

const ways: readonly [string, () => Type, StartOptions["main"], (prefix: string) => string][] = [
  ["mount: '/llm'", () => byOption("/llm"), undefined, () => "/llm"],
  ["mount: '/llm', below the prefix", () => byOption("/llm"), undefined, (prefix) => `${prefix}/llm`],
  ["consumer.apply(handler).forRoutes('llm')", () => byConsumer("llm"), undefined, (prefix) => `${prefix}/llm`],
  ["consumer.apply(handler).forRoutes('llm/{*path}')", () => byConsumer("llm/{*path}"), undefined, (prefix) => `${prefix}/llm`],
  [
    "consumer.apply(handler).forRoutes({ path: 'llm/*path' })",
    () => byConsumer({ path: "llm/*path", method: RequestMethod.ALL }),
    undefined,
    (prefix) => `${prefix}/llm`,
  ],
  ["app.use('/llm', handler)", byMain, mountInMain, () => "/llm"],
];

const prefixed = (app: NestExpressApplication): void => void app.setGlobalPrefix("api");
const versioned = (app: NestExpressApplication): void => void app.enableVersioning({ type: VersioningType.URI, defaultVersion: "1" });

const apps: readonly [string, StartOptions, string, string][] = [
  ["a plain app", {}, "", "/models"],
  ["a global prefix", { main: prefixed }, "/api", "/api/models"],
  ["versions in the path", { main: versioned }, "", "/v1/models"],
  [
    "a prefix and versions",
    {
      main(app) {
        prefixed(app);
        versioned(app);
      },
    },
    "/api",
    "/api/v1/models",
  ],
  ["rawBody", { rawBody: true }, "", "/models"],
  ["bodyParser: false", { bodyParser: false }, "", "/models"],
];

describe.each(ways)("%s", (_way, module, mount, at) => {
  test.each(apps)("answers in %s, and leaves the host's routes alone", async (_app, { main, ...more }, prefix, host) => {
    const { url } = await started(module(), {
      ...more,
      main(app) {
        main?.(app);
        mount?.(app);
      },
    });
    const gateway = url + at(prefix);
    const whole = await ask(gateway);
    expect(await whole.json()).toMatchObject({ object: "chat.completion", choices: [{ message: { content: "You said: hello" } }] });
    expect(whole.status).toBe(200);
    const stream = await (await ask(gateway, { stream: true })).text();
    expect(stream.trimEnd().endsWith("data: [DONE]")).toBe(true);
    expect((await fetch(`${gateway}/v1/models`)).status).toBe(401);
    expect((await fetch(`${gateway}/nothing`)).status).toBe(404);
    expect(await (await fetch(url + host)).json()).toEqual(["the host's own"]);
  });
});

test("a wildcard at the root is the root: what the host has below a path of its own stays the host's", async () => {
  const { url } = await started(byConsumer("{*path}"));
  expect(await (await fetch(`${url}/shop/v1/models`)).json()).toEqual(["the host's own"]);
  expect((await ask(url)).status).toBe(200);
  expect((await fetch(`${url}/llm/v1/models`)).status).toBe(404);
});

test("management is below the mount, also behind a wildcard", async () => {
  const key = "a-management-key-of-32-characters!!";
  for (const way of ["llm/{*path}", null]) {
    @Module({ imports: [QuotaGuardModule.forRoot({ ...options(), management: { key }, mount: way === null ? "/llm" : null })] })
    class App implements NestModule {
      readonly guard: QuotaGuardService;
      constructor(guard: QuotaGuardService) {
        this.guard = guard;
      }
      configure(consumer: MiddlewareConsumer): void {
        if (way !== null) consumer.apply(this.guard.handler()).forRoutes(way);
      }
    }
    const { url } = await started(App);
    const health = await fetch(`${url}/llm/v0/management/health?verbose=1`, { headers: { authorization: `Bearer ${key}` } });
    expect(await health.json()).toMatchObject({ status: "ok" });
  }
});

test.each([
  ["Nest's parsers", {}, 413],
  ["a larger limit of theirs", { main: (app: NestExpressApplication) => void app.useBodyParser("json", { limit: "10mb" }) }, 200],
  ["none of them", { bodyParser: false }, 200],
])("a request of 300 kB behind %s", async (_what, more, status) => {
  const { url } = await started(byOption("/llm"), more);
  const answer = await ask(`${url}/llm`, { messages: [{ role: "user", content: "x".repeat(300_000) }] });
  expect(answer.status).toBe(status);
});

test("middleware of main.ts runs before the mount", async () => {
  const { url } = await started(byOption("/llm"), {
    main: (app) =>
      void app.use(
        (_req: object, res: { setHeader(name: string, value: string): void }, next: () => void) => (res.setHeader("x-host", "was here"), next()),
      ),
  });
  expect((await ask(`${url}/llm`)).headers.get("x-host")).toBe("was here");
});

test.each([
  ["llm", "mount: expected a path from the root, such as /llm"],
  ["/llm/", "mount: expected a path from the root, such as /llm"],
  ["/llm/*", "mount: expected a path from the root, such as /llm"],
])("mount: %j stops the boot", async (mount, message) => {
  const app = await created(byOption(mount));
  await expect(app.init()).rejects.toThrow(message);
});

test("a mount needs a decision on who may call", async () => {
  const { auth: _, ...open } = options();
  const app = await created(QuotaGuardModule.forRoot({ ...open, mount: "/llm" }));
  await expect(app.init()).rejects.toThrow(/^auth: decide who may call the gateway/);
});
