// `@Budget()` on handlers of a Nest app.
import {
  BadRequestException,
  Body,
  Catch,
  Controller,
  Get,
  HttpException,
  Injectable,
  Module,
  Post,
  Req,
  Sse,
  UseFilters,
  UseGuards,
  type ArgumentsHost,
  type CanActivate,
  type ExceptionFilter,
  type ExecutionContext,
  type Type,
} from "@nestjs/common";
import type { Request, Response as Res } from "express";
import type { IncomingMessage } from "node:http";
import OpenAI from "openai";
import { defer, from, map } from "rxjs";
import { describe, expect, test } from "vitest";
import { contextOf, GuardError, type GuardOptions, type RequestQuota } from "quotaguard";
import { Budget, BudgetInterceptor, Quota, QuotaGuardException, QuotaGuardModule, QuotaGuardService, SkipBudget } from "quotaguard/nest";
import { fakeUpstream } from "quotaguard/testing";
import { gatewayOptions } from "../helpers/app.ts";
import { closingAll, later, post, started } from "./nest-kit.ts";

closingAll();

interface LoggedIn extends IncomingMessage {
  user?: { readonly id: string };
}

/** The host's login: whoever the header names. */
@Injectable()
class Login implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const req = context.switchToHttp().getRequest<LoggedIn>();
    const id = req.headers["x-login"];
    if (typeof id === "string") req.user = { id };
    return true;
  }
}

const guardOptions: GuardOptions = {
  scopes: (req: LoggedIn) => ({ user: req.user?.id }),
  models: [{ name: "gpt-4o", price: { inputPerMtok: 1_000, outputPerMtok: 1_000 } }],
  limits: [
    { name: "user-day", scope: "user", unit: "usd", window: { limit: 2, per: "day" } },
    { name: "user-hour", scope: "user", unit: "requests", window: { limit: 2, per: "hour" } },
    { name: "all-hour", scope: "global", unit: "requests", window: { limit: 100, per: "hour" } },
  ],
};

async function app(
  controller: Type,
  more: GuardOptions = {},
  providers: Type[] = [],
): Promise<{ readonly url: string; readonly guard: QuotaGuardService }> {
  @Module({ imports: [QuotaGuardModule.forRoot({ ...guardOptions, ...more })], controllers: [controller], providers })
  class App {}
  const { app: nest, url } = await started(App);
  return { url, guard: nest.get(QuotaGuardService) };
}

describe("one budget", () => {
  @Controller()
  @UseGuards(Login)
  class Summaries {
    @Post("summarise")
    @Budget({ limits: ["user-day"], cost: { model: "gpt-4o", input: "x", maxOutputTokens: 800 } })
    summarise(@Quota() quota: RequestQuota, @Body() { spend = 1_500 }: { spend?: number }) {
      quota.meter({ model: "gpt-4o", inputTokens: 500, outputTokens: spend - 500 });
      return { scopes: quota.scopes };
    }

    @Post("free")
    free() {
      return "free";
    }
  }

  test("counts whoever the guard's login found, and settles what was metered", async () => {
    const { url } = await app(Summaries);
    const first = await post(`${url}/summarise`, "alice");
    expect([first.status, await first.json()]).toEqual([201, { scopes: { user: "alice" } }]);
    expect(first.headers.get("ratelimit-policy")).toContain('"user-day"');
    // 1.5 of 2 dollars are spent, and each call holds 0.8.
    expect((await post(`${url}/summarise`, "alice")).status).toBe(429);
    expect((await post(`${url}/summarise`, "bob", { spend: 500 })).status).toBe(201);
    expect((await post(`${url}/summarise`, "bob", { spend: 500 })).status).toBe(201);
    expect((await post(`${url}/free`)).status).toBe(201);
  });

  test("a refusal is a problem document with its headers", async () => {
    const { url } = await app(Summaries);
    await post(`${url}/summarise`, "alice");
    const refused = await post(`${url}/summarise`, "alice");
    expect(refused.status).toBe(429);
    expect(refused.headers.get("content-type")).toBe("application/problem+json; charset=utf-8");
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect(refused.headers.get("ratelimit")).toContain('"user-day"');
    const problem = (await refused.json()) as Record<string, unknown>;
    expect(problem).toMatchObject({
      title: "budget exhausted",
      status: 429,
      code: "budget_exhausted",
      limit: "user-day",
      scope: "user",
      available: 0.5,
    });
    expect(problem["request_id"]).toBe(refused.headers.get("x-request-id"));
  });

  test("a request without a login is a 400 that says what is missing", async () => {
    const { url } = await app(Summaries);
    const refused = await post(`${url}/summarise`);
    expect(refused.status).toBe(400);
    expect(refused.headers.get("content-type")).toContain("application/problem+json");
    expect(await refused.json()).toMatchObject({ code: "scope_invalid", detail: "limit user-day needs scope user; is your auth before it?" });
  });

  test("a guard that is closed refuses with 503, and the handler does not run", async () => {
    const { url, guard } = await app(Summaries);
    await guard.close();
    const refused = await post(`${url}/summarise`, "alice");
    expect(refused.status).toBe(503);
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(await refused.json()).toMatchObject({ code: "overloaded" });
  });

  test("more than one request at a time never passes together more than there is", async () => {
    const { url } = await app(Summaries);
    const statuses = await Promise.all(Array.from({ length: 10 }, async () => (await post(`${url}/summarise`, "carol", { spend: 800 })).status));
    expect(statuses.filter((status) => status === 201).length).toBe(2);
  });
});

test("class and method together charge a counter once, and the tightest of them refuses", async () => {
  @Controller()
  @UseGuards(Login)
  @Budget("user-hour")
  class Twice {
    @Post("both")
    @Budget({ limits: ["user-hour", "all-hour"] })
    @Budget({ limits: ["user-hour"] })
    both() {
      return "both";
    }

    @Post("one")
    one() {
      return "one";
    }

    @Get("none")
    @SkipBudget()
    none() {
      return "none";
    }
  }
  const { url } = await app(Twice);
  const first = await post(`${url}/both`, "alice");
  expect(first.headers.get("ratelimit")).toMatch(/^"user-hour";r=1;t=\d+, "all-hour";r=99;t=\d+$/);
  expect((await post(`${url}/one`, "alice")).status).toBe(201);
  expect((await post(`${url}/both`, "alice")).status).toBe(429);
  expect((await post(`${url}/one`, "alice")).status).toBe(429);
  for (let i = 0; i < 3; i += 1) expect((await fetch(`${url}/none`)).status).toBe(200);
});

test("without options all of the guard's limits apply; a class's base has its own", async () => {
  @Budget()
  class Base {}

  @Controller()
  @UseGuards(Login)
  class Derived extends Base {
    @Post("all")
    all() {
      return "all";
    }
  }
  const limits: GuardOptions["limits"] = [
    { name: "user-hour", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } },
    { name: "all-hour", scope: "global", unit: "requests", window: { limit: 3, per: "hour" } },
  ];
  const { url } = await app(Derived, { limits });
  const first = await post(`${url}/all`, "alice");
  expect(first.headers.get("ratelimit-policy")).toMatch(/"user-hour".*"all-hour"/);
  expect((await post(`${url}/all`, "alice")).status).toBe(429);
});

test("skip leaves a request alone, and @Quota() is there all the same", async () => {
  @Controller()
  @UseGuards(Login)
  class Skipping {
    @Post("work")
    @Budget({ limits: ["user-hour"], skip: (req: LoggedIn) => Promise.resolve(req.user?.id === "admin") })
    work(@Quota() quota: RequestQuota) {
      quota.meter({ inputTokens: 1 });
      return quota.scopes;
    }
  }
  const { url } = await app(Skipping);
  for (let i = 0; i < 4; i += 1) expect((await post(`${url}/work`, "admin")).status).toBe(201);
  const statuses = [];
  for (let i = 0; i < 3; i += 1) statuses.push((await post(`${url}/work`, "alice")).status);
  expect(statuses).toEqual([201, 201, 429]);
});

test("scopes and limits of the route's own", async () => {
  @Controller()
  class Own {
    @Post("own")
    @Budget({
      limits: [{ name: "feature-hour", scope: "feature" as "user", unit: "requests", window: { limit: 1, per: "hour" } }],
      scopes: (req) => ({ feature: req.headers["x-feature"] }) as object,
    })
    own(@Quota() quota: RequestQuota) {
      return quota.scopes;
    }
  }
  const { url } = await app(Own, { scopes: { names: ["feature"] } });
  const ask = (feature: string): Promise<Response> => fetch(`${url}/own`, { method: "POST", headers: { "x-feature": feature } });
  const answers = [await ask("search"), await ask("search"), await ask("write")];
  expect(answers.map(({ status }) => status)).toEqual([201, 429, 201]);
  expect(await answers[2]?.json()).toEqual({ feature: "write" });
});

describe("what a handler throws", () => {
  test("a failure of the host's stays what it is, and the estimate stands", async () => {
    @Controller()
    @UseGuards(Login)
    class Failing {
      @Post("fail")
      @Budget({ limits: ["user-day"], cost: 1.5 })
      fail() {
        throw new BadRequestException("the host's own words");
      }
    }
    const { url } = await app(Failing);
    const failed = await post(`${url}/fail`, "alice");
    expect([failed.status, await failed.json()]).toEqual([400, { statusCode: 400, message: "the host's own words", error: "Bad Request" }]);
    expect((await post(`${url}/fail`, "alice")).status).toBe(429);
  });

  test("release() gives back what a failure did not use", async () => {
    @Controller()
    @UseGuards(Login)
    class Releasing {
      @Post("fail")
      @Budget({ limits: ["user-day"], cost: 1.5 })
      fail(@Quota() quota: RequestQuota) {
        quota.release();
        throw new BadRequestException();
      }
    }
    const { url } = await app(Releasing);
    for (let i = 0; i < 3; i += 1) expect((await post(`${url}/fail`, "alice")).status).toBe(400);
  });

  test("a refusal that an SDK met inside is the refusal of the route", async () => {
    const upstream = later(await fakeUpstream());

    @Controller()
    @UseGuards(Login)
    class Calling {
      readonly #openai: OpenAI;
      constructor(guard: QuotaGuardService) {
        this.#openai = new OpenAI(guard.sdk({ scopes: { team: "data" } }));
      }

      @Post("chat")
      @Budget("user-hour")
      async chat() {
        return await this.#openai.chat.completions.create({ model: "gpt-4o", messages: [{ role: "user", content: "hi" }] });
      }

      @Post("bare")
      async bare() {
        return await this.chat();
      }
    }
    const limits: GuardOptions["limits"] = [
      { name: "user-hour", scope: "user", unit: "requests", window: { limit: 9, per: "hour" }, required: false },
      { name: "team-hour", scope: "team", unit: "requests", window: { limit: 1, per: "hour" }, required: false },
    ];
    const { url } = await app(Calling, { ...gatewayOptions(upstream), limits });
    expect((await post(`${url}/chat`, "alice")).status).toBe(201);
    const refused = await post(`${url}/chat`, "alice");
    expect(refused.status).toBe(429);
    expect(refused.headers.get("content-type")).toContain("application/problem+json");
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(await refused.json()).toMatchObject({ code: "budget_exhausted", limit: "team-hour", scope: "team" });
    // Without a budget nothing of ours is around the handler: there it is what the SDK made of it.
    expect((await post(`${url}/bare`, "alice")).status).toBe(500);
  });
});

test.each(["promise", "sse"])("a client of the guard inside the handler spends on whom the route is for: %s", async (kind) => {
  const upstream = later(await fakeUpstream());

  @Controller()
  @UseGuards(Login)
  class Calling {
    readonly #openai: OpenAI;
    constructor(guard: QuotaGuardService) {
      this.#openai = new OpenAI(guard.sdk());
    }

    @Get("promise")
    @Budget("user-hour")
    async promise() {
      const { choices } = await this.#openai.chat.completions.create({ model: "gpt-4o", messages: [{ role: "user", content: "hi" }] });
      return choices[0]?.message.content;
    }

    @Sse("sse")
    @Budget("user-hour")
    sse() {
      // Begins when Nest subscribes, long after the handler has returned.
      return defer(() => from(this.promise()).pipe(map((data) => ({ data }))));
    }
  }
  const limits: GuardOptions["limits"] = [{ name: "user-hour", scope: "user", unit: "requests", window: { limit: 9, per: "hour" } }];
  const { url, guard } = await app(Calling, { ...gatewayOptions(upstream), limits });
  const answers = await Promise.all(["alice", "bob"].map((user) => fetch(`${url}/${kind}`, { headers: { "x-login": user } })));
  for (const answer of answers) expect(await answer.text()).toContain("You said: hi");
  const rows = await guard.ledger.list({});
  const calls = rows.filter(({ credential }) => credential === "main").map(({ scopes }) => scopes["user"]);
  expect(new Set(calls)).toEqual(new Set(["alice", "bob"]));
  expect(calls.length).toBe(2);
  // The route's own request is the one that is counted.
  expect(answers.map(({ headers }) => headers.get("ratelimit"))).toEqual([
    expect.stringContaining('"user-hour";r=8'),
    expect.stringContaining('"user-hour";r=8'),
  ]);
  const [alice] = await guard.remaining({ user: "alice" });
  expect(alice).toMatchObject({ name: "user-hour", available: 8 });
});

test("exception filters see a refusal with everything in it", async () => {
  @Catch(QuotaGuardException)
  class Translated implements ExceptionFilter<QuotaGuardException> {
    catch({ error, ...exception }: QuotaGuardException, host: ArgumentsHost): void {
      const res = host.switchToHttp().getResponse<Res>();
      res
        .status(402)
        .json({ sorry: error.limit, known: GuardError.from(error) === error, status: error.status, keys: Object.keys(exception).length > 0 });
    }
  }

  @Controller()
  @UseGuards(Login)
  class Filtered {
    @Post("work")
    @UseFilters(Translated)
    @Budget("user-hour")
    work() {
      return "done";
    }
  }
  const { url } = await app(Filtered);
  await post(`${url}/work`, "alice");
  await post(`${url}/work`, "alice");
  const refused = await post(`${url}/work`, "alice");
  expect(refused.status).toBe(402);
  expect(refused.headers.get("retry-after")).not.toBeNull();
  expect(await refused.json()).toMatchObject({ sorry: "user-hour", known: true, status: 429 });
});

test("the exception is an HttpException with the refusal as its cause", () => {
  const error = new GuardError("budget_exhausted", "no room", { limit: "user-day", retryAfterMs: 5_000 });
  const exception = new QuotaGuardException(error);
  expect(exception).toBeInstanceOf(HttpException);
  expect([exception.getStatus(), exception.message, exception.cause]).toEqual([429, "no room", error]);
  expect(exception.getResponse()).toMatchObject({ code: "budget_exhausted", detail: "no room", retry_after_ms: 5_000 });
  expect(GuardError.from(exception)).toBe(error);
});

test("@Quota() and contextOf(req) are one object; where no budget is, it says so", async () => {
  @Controller()
  @UseGuards(Login)
  class Same {
    @Post("same")
    @Budget("user-hour")
    same(@Quota() quota: RequestQuota, @Req() req: Request) {
      return { same: quota === contextOf(req) };
    }

    @Post("none")
    none(@Quota() quota: RequestQuota) {
      return quota.requestId;
    }
  }
  const { url } = await app(Same);
  expect(await (await post(`${url}/same`, "alice")).json()).toEqual({ same: true });
  expect((await post(`${url}/none`, "alice")).status).toBe(500);
});

test("a decorator in the wrong place is a mistake at once", () => {
  const onProperty = Budget("user-hour") as PropertyDecorator;
  expect(() => onProperty({}, "name")).toThrow("@Budget() stands on a method or a class; name is neither");
  expect(BudgetInterceptor).toBeTypeOf("function");
});
