// The module: its options, its boot, and the service that is the guard.
import { Controller, Injectable, Module, Post, type DynamicModule, type Type } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { ExpressAdapter } from "@nestjs/platform-express";
import { describe, expect, test, vi } from "vitest";
import { createGuard, type GuardOptions } from "quotaguard";
import { Budget, QuotaGuardModule, QuotaGuardService, type BudgetOptions } from "quotaguard/nest";
import { KEY } from "../helpers/app.ts";
import { closed, closingAll, created, later, post, started } from "./nest-kit.ts";

closingAll();

const options: GuardOptions = {
  limits: [{ name: "all-hour", scope: "global", unit: "requests", window: { limit: 1, per: "hour" } }],
};

@Controller()
class Works {
  @Post("work")
  @Budget("all-hour")
  work() {
    return "done";
  }
}

/** The budget is in another module than the guard. */
@Module({ controllers: [Works] })
class Feature {}

function appWith(guard: DynamicModule): Type {
  @Module({ imports: [guard, Feature] })
  class App {}
  return App;
}

async function counts(module: Type): Promise<readonly number[]> {
  const { url } = await started(module);
  return [(await post(`${url}/work`)).status, (await post(`${url}/work`)).status];
}

describe("options", () => {
  @Injectable()
  class Settings {
    create(): GuardOptions {
      return options;
    }
  }

  @Module({ providers: [Settings], exports: [Settings] })
  class SettingsModule {}

  test.each([
    ["forRoot", QuotaGuardModule.forRoot(options)],
    ["useFactory", QuotaGuardModule.forRootAsync({ useFactory: () => Promise.resolve(options) })],
    [
      "useFactory with inject",
      QuotaGuardModule.forRootAsync({ imports: [SettingsModule], inject: [Settings], useFactory: (settings: Settings) => settings.create() }),
    ],
    ["useClass", QuotaGuardModule.forRootAsync({ useClass: Settings })],
    ["useExisting", QuotaGuardModule.forRootAsync({ imports: [SettingsModule], useExisting: Settings })],
  ])("%s, used by a module that does not import it", async (_way, module) => {
    expect(await counts(appWith(module))).toEqual([201, 429]);
  });

  test("isGlobal: false keeps it to modules that import it", async () => {
    const own = QuotaGuardModule.forRoot({ ...options, isGlobal: false });
    await expect(created(appWith(own))).rejects.toThrow(/resolve dependencies of the .*BudgetInterceptor/);

    @Module({ imports: [own], controllers: [Works] })
    class Importing {}
    expect(await counts(Importing)).toEqual([201, 429]);
  });

  test("a mount beside forRootAsync", async () => {
    const module = QuotaGuardModule.forRootAsync({
      mount: "/llm",
      useFactory: () => ({ auth: { keys: [{ name: "alice", key: KEY }] }, credentials: [{ name: "main", provider: "openai", apiKey: "sk-none" }] }),
    });
    const { url } = await started(module);
    expect((await fetch(`${url}/llm/v1/models`)).status).toBe(401);
  });
});

describe("the service", () => {
  test("has everything of the guard, and is one", async () => {
    const app = await created(appWith(QuotaGuardModule.forRoot(options)));
    const service = app.get(QuotaGuardService);
    expect(service).toBeInstanceOf(QuotaGuardService);
    const bare = later(createGuard(options));
    expect(Object.keys(service).toSorted()).toEqual(Object.keys(bare).toSorted());
    await app.init();
    expect(await service.ledger.list({})).toEqual([]);
    expect(service.admin.limits.list()).toMatchObject([{ name: "all-hour" }]);
  });

  test("works in an app without HTTP", async () => {
    const app = later(await NestFactory.createApplicationContext(appWith(QuotaGuardModule.forRoot(options)), { logger: false, abortOnError: false }));
    expect(app.get(QuotaGuardService).admin.health()).toMatchObject({ status: "ok" });
  });
});

describe("the boot stops", () => {
  test("at a wrong option, which it names", async () => {
    const wrong = { limts: [] } as GuardOptions;
    await expect(created(appWith(QuotaGuardModule.forRoot(wrong)))).rejects.toThrow(/^limts: unknown option.*limits/);
    await expect(created(appWith(QuotaGuardModule.forRootAsync({ useFactory: () => wrong })))).rejects.toThrow(/^limts: unknown option/);
  });

  test("a factory that forgets its return, or says where the gateway is mounted", async () => {
    for (const none of [undefined, null]) {
      const forgetful = QuotaGuardModule.forRootAsync({ useFactory: () => none as never });
      await expect(created(appWith(forgetful))).rejects.toThrow(/the factory gave no options; does it return them\?/);
    }
    expect(() => QuotaGuardModule.forRoot(Promise.resolve({}) as object)).toThrow(/its options are a promise; use forRootAsync/);
    const misplaced = QuotaGuardModule.forRootAsync({ useFactory: () => ({ mount: "/llm" }) as object });
    await expect(created(appWith(misplaced))).rejects.toThrow(/^mount: stands beside useFactory/);
  });

  async function boot(budget: string | BudgetOptions, place: "method" | "class", more: GuardOptions = options): Promise<void> {
    class Summaries {
      summarise() {
        return "summary";
      }
    }
    const { prototype } = Summaries;
    const method = Object.getOwnPropertyDescriptor(prototype, "summarise") as TypedPropertyDescriptor<unknown>;
    if (place === "class") Budget(budget)(Summaries);
    else Budget(budget)(prototype, "summarise", method);
    Post("summarise")(prototype, "summarise", method);
    Controller()(Summaries);

    @Module({ imports: [QuotaGuardModule.forRoot(more)], controllers: [Summaries] })
    class App {}
    const app = await created(App);
    await app.listen(0, "127.0.0.1");
  }

  test.each([
    [
      "a limit that nobody has",
      "al-hour",
      "method",
      /^@Budget\(\) of Summaries\.summarise: limits\[0\]: there is no limit al-hour among the guard's.*all-hour/,
    ],
    ["one on a class", "al-hour", "class", /^@Budget\(\) of Summaries: limits\[0\]: there is no limit al-hour/],
    ["an unknown option", { limit: ["all-hour"] } as BudgetOptions, "method", /^@Budget\(\) of Summaries\.summarise: limit: unknown option.*limits/],
    ["onRefused", { onRefused: () => {} } as BudgetOptions, "method", /summarise: onRefused: a refusal is thrown as an HttpException here/],
  ] as const)("at %s in @Budget()", async (_what, budget, place, message) => {
    await expect(boot(budget, place)).rejects.toThrow(message);
  });

  test("at a budget of money without a cost, also in an app that has credentials", async () => {
    const more: GuardOptions = {
      credentials: [{ name: "main", provider: "openai", apiKey: "sk-none" }],
      limits: [{ name: "all-day", scope: "global", unit: "usd", window: { limit: 1, per: "day" } }],
    };
    await expect(boot("all-day", "method", more)).rejects.toThrow(/summarise: cost: is required: limit all-day counts usd/);
  });

  test("at a store that cannot be opened, with the reason, and leaves nothing open", async () => {
    const store = { url: "sqlite:/proc/no/such/folder/quota.db" };
    const app = await created(appWith(QuotaGuardModule.forRoot({ ...options, store })));
    await expect(app.listen(0, "127.0.0.1")).rejects.toThrow(/\/proc\/no\/such\/folder/);
    expect(app.get(QuotaGuardService).admin.health().status).toBe("closing");
  });

  test("with a line of the guard's in the app's own log", async () => {
    const lines: unknown[] = [];
    const keep = (...parts: readonly unknown[]): void => void lines.push(parts);
    const logger = { log: keep, error: keep, warn: keep, debug: keep };
    const app = await created(QuotaGuardModule.forRoot({ ...options, store: { url: "sqlite:/proc/no/such/folder/quota.db" } }), { logger });
    await expect(app.init()).rejects.toThrow();
    const said = expect.stringMatching(/^the guard could not start; .*: .*\/proc\/no\/such\/folder/);
    expect(lines).toContainEqual([said, expect.stringContaining("at "), "QuotaGuard"]);
  });

  test("on Fastify", async () => {
    class Fastify extends ExpressAdapter {
      override getType(): string {
        return "fastify";
      }
    }
    const boots = [QuotaGuardModule.forRoot(options), QuotaGuardModule.forRoot({ ...options, auth: false, mount: "/llm" })];
    for (const module of boots) {
      const app = await NestFactory.create(appWith(module), new Fastify(), { logger: false, abortOnError: false });
      later(app);
      await expect(app.init()).rejects.toThrow("use @nestjs/platform-express; this app runs on Fastify");
    }
  });
});

test("the app's own log has a plugin's failure, whatever it threw", async () => {
  const lines: string[] = [];
  const keep = (line: string): void => void lines.push(line);
  const logger = { log: keep, error: keep, warn: keep, debug: keep };
  const circle: Record<string, unknown> = { status: 503, count: 1n };
  circle.self = circle;
  const plugin = { name: "probe", setup: () => vi.fn<() => Promise<void>>().mockRejectedValue(circle) };
  const app = await created(QuotaGuardModule.forRoot({ ...options, plugins: [plugin] }), { logger });
  await app.init();
  await closed(app);
  expect(lines).toContainEqual(expect.stringMatching(/^a teardown of the plugin failed: .*status: 503/));
});
