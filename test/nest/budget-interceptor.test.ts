// What stands around the handler: subclasses, other kinds of handlers, and handlers that nobody waits for any more.
import {
  Controller,
  Inject,
  Injectable,
  Module,
  Post,
  Req,
  RequestTimeoutException,
  Res,
  Sse,
  StreamableFile,
  UseGuards,
  UseInterceptors,
  type CallHandler,
  type CanActivate,
  type ExecutionContext,
  type NestInterceptor,
  type Type,
} from "@nestjs/common";
import { ROUTE_ARGS_METADATA } from "@nestjs/common/constants.js";
import { APP_INTERCEPTOR, ExternalContextCreator } from "@nestjs/core";
import type { Request, Response as ExpressResponse } from "express";
import type { IncomingMessage } from "node:http";
import { Readable } from "node:stream";
import { firstValueFrom, Observable, Subject, takeUntil, throwIfEmpty } from "rxjs";
import { describe, expect, test } from "vitest";
import type { GuardEvents, GuardOptions, RequestQuota, ScopesInput } from "quotaguard";
import { Budget, BudgetInterceptor, Quota, QuotaGuardModule, QuotaGuardService, type RequestResponse } from "quotaguard/nest";
import { closingAll, post, started } from "./nest-kit.ts";

closingAll();

interface TenantRequest extends IncomingMessage {
  tenant?: string;
}

/** The host's login: says the tenant, which the guard's own `scopes` knows nothing of. */
@Injectable()
class Login implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const req = context.switchToHttp().getRequest<TenantRequest>();
    const tenant = req.headers["x-login"];
    if (typeof tenant === "string") req.tenant = tenant;
    return true;
  }
}

@Injectable()
class TenantBudgets extends BudgetInterceptor {
  protected override scopes(req: TenantRequest, context: ExecutionContext): ScopesInput {
    return { team: req.tenant, route: context.getHandler().name };
  }
}

const hour = (name: string, scope: "team" | "user" | "global", limit: number) =>
  ({ name, scope, unit: "requests", window: { limit, per: "hour" } }) as const;

const guardOptions: GuardOptions = {
  scopes: (req) => ({ user: req.headers["x-user"] as string | undefined }),
  limits: [hour("team-hour", "team", 2), hour("all-hour", "global", 100)],
};

async function app(controller: Type, more: GuardOptions = {}, providers: NonNullable<Parameters<typeof Module>[0]["providers"]> = []) {
  @Module({ imports: [QuotaGuardModule.forRoot({ ...guardOptions, ...more })], controllers: [controller], providers })
  class App {}
  const { app: nest, url } = await started(App);
  const guard = nest.get(QuotaGuardService);
  /** What is left of a user's bucket of 100 tokens. */
  const left = async (user: string): Promise<number> => (await guard.admin.bucket({ scope: "user", id: user })).tokens;
  return { nest, url, guard, left };
}

const eventOf = <K extends keyof GuardEvents>(guard: QuotaGuardService, name: K): Promise<GuardEvents[K]> =>
  new Promise((resolve) => void guard.events.on(name, resolve));

describe("a subclass", () => {
  @Controller()
  @UseGuards(Login)
  class Above {
    @Post("work")
    @UseInterceptors(TenantBudgets)
    @Budget({ limits: ["team-hour", "all-hour"] })
    work(@Quota() quota: RequestQuota) {
      return quota.scopes;
    }
  }

  @Controller()
  @UseGuards(Login)
  class Below {
    @Post("work")
    @Budget({ limits: ["team-hour", "all-hour"] })
    @UseInterceptors(TenantBudgets)
    work(@Quota() quota: RequestQuota) {
      return quota.scopes;
    }
  }

  @Controller()
  @UseGuards(Login)
  @UseInterceptors(TenantBudgets)
  @Budget("all-hour")
  class OnClass {
    @Post("work")
    @Budget("team-hour")
    work(@Quota() quota: RequestQuota) {
      return quota.scopes;
    }
  }

  @Controller()
  @UseGuards(Login)
  class Unbound {
    @Post("work")
    @Budget({ limits: ["team-hour", "all-hour"] })
    work(@Quota() quota: RequestQuota) {
      return quota.scopes;
    }
  }

  const global = [{ provide: APP_INTERCEPTOR, useClass: TenantBudgets }];

  test.each([
    ["above @Budget()", Above, []],
    ["below @Budget()", Below, []],
    ["on the class", OnClass, []],
    ["for the whole app", Unbound, global],
  ])("%s says whose budgets, and nothing is charged twice", async (_where, controller, providers) => {
    const { url } = await app(controller, {}, providers);
    const work = (tenant: string): Promise<Response> => fetch(`${url}/work`, { method: "POST", headers: { "x-login": tenant, "x-user": "alice" } });
    const first = await work("acme");
    expect(await first.json()).toEqual({ user: "alice", team: "acme", route: "work" });
    expect(first.headers.get("ratelimit")).toContain('"all-hour";r=99');
    expect(first.headers.get("ratelimit")).toContain('"team-hour";r=1');
    expect([(await work("acme")).status, (await work("acme")).status, (await work("zeta")).status]).toEqual([201, 429, 201]);
  });

  test("without one the guard's own scopes are all there is", async () => {
    const { url } = await app(Unbound);
    expect((await post(`${url}/work`, "acme")).status).toBe(400);
  });

  test("of several the first to run does the work", async () => {
    @Injectable()
    class Others extends BudgetInterceptor {
      protected override scopes(): ScopesInput {
        return { team: "others" };
      }
    }

    @Controller()
    @UseGuards(Login)
    @UseInterceptors(Others)
    class Several {
      @Post("work")
      @UseInterceptors(Others)
      @Budget("team-hour")
      work(@Quota() quota: RequestQuota) {
        return quota.scopes;
      }
    }
    const { url, guard } = await app(Several, {}, global);
    expect(await (await post(`${url}/work`, "acme")).json()).toEqual({ team: "acme", route: "work" });
    const left = async (team: string) => (await guard.remaining({ team })).find(({ name }) => name === "team-hour")?.available;
    expect([await left("acme"), await left("others")]).toEqual([1, 2]);
  });

  test("@Budget({ scopes }) is asked instead", async () => {
    @Controller()
    @UseGuards(Login)
    class Explicit {
      @Post("work")
      @UseInterceptors(TenantBudgets)
      @Budget({ limits: ["team-hour"], scopes: () => ({ team: "fixed" }) })
      work(@Quota() quota: RequestQuota) {
        return quota.scopes;
      }
    }
    const { url } = await app(Explicit);
    expect(await (await post(`${url}/work`, "acme")).json()).toEqual({ team: "fixed" });
  });

  test("finds request and response where they are: a GraphQL resolver's context", async () => {
    @Injectable()
    class ResolverBudgets extends BudgetInterceptor {
      protected override getRequestResponse(context: ExecutionContext): RequestResponse {
        const { req, res } = context.getArgByIndex<{ req: Request; res: ExpressResponse }>(2);
        return { req, res };
      }
    }

    @Injectable()
    class Summaries {
      @UseInterceptors(ResolverBudgets)
      @Budget("user-hour")
      summarise(@Quota() quota: RequestQuota) {
        return quota.scopes;
      }
    }

    // As @nestjs/graphql calls its resolvers: through interceptors and all, with (root, args, context, info).
    @Controller()
    class Endpoint {
      readonly #resolve: (...parameters: unknown[]) => Promise<unknown>;
      constructor(@Inject(ExternalContextCreator) creator: ExternalContextCreator, summaries: Summaries) {
        const none = undefined;
        const parameters = { exchangeKeyForValue: () => null };
        this.#resolve = creator.create(
          summaries,
          summaries.summarise as () => unknown,
          "summarise",
          ROUTE_ARGS_METADATA,
          parameters,
          none,
          none,
          none,
          "graphql",
        );
      }

      @Post("graphql")
      async graphql(@Req() req: Request, @Res({ passthrough: true }) res: ExpressResponse) {
        return await this.#resolve(null, {}, { req, res }, {});
      }
    }
    const limits = [hour("user-hour", "user", 1)];
    const { url } = await app(Endpoint, { limits }, [Summaries]);
    const ask = (): Promise<Response> => fetch(`${url}/graphql`, { method: "POST", headers: { "x-user": "alice" } });
    expect(await (await ask()).json()).toEqual({ user: "alice" });
    const refused = await ask();
    expect(refused.status).toBe(429);
    expect(await refused.json()).toMatchObject({ code: "budget_exhausted", limit: "user-hour" });
  });
});

/** A bucket of tokens that never refills: what is charged stays charged. */
const tokens: GuardOptions = {
  limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 100, refillPerSec: 0 } }],
};
const budget = { limits: ["user-tokens"], cost: { tokens: 60 } };

describe("a response that closes settles, whoever wrote it", () => {
  @Controller()
  class Kinds {
    @Post("value")
    @Budget(budget)
    value(@Quota() quota: RequestQuota) {
      quota.meter({ inputTokens: 10 });
      return Promise.resolve("value");
    }

    @Post("res")
    @Budget(budget)
    res(@Quota() quota: RequestQuota, @Res() res: ExpressResponse) {
      quota.meter({ inputTokens: 10 });
      res.status(201).end("res");
    }

    @Post("file")
    @Budget(budget)
    file(@Quota() quota: RequestQuota) {
      quota.meter({ inputTokens: 10 });
      return new StreamableFile(Readable.from(["fi", "le"]));
    }

    @Post("observable")
    @Budget(budget)
    observable(@Quota() quota: RequestQuota) {
      quota.meter({ inputTokens: 10 });
      return new Observable((subscriber) => {
        subscriber.next("observable");
        subscriber.complete();
      });
    }

    @Sse("sse")
    @Budget(budget)
    sse(@Quota() quota: RequestQuota) {
      return new Observable((subscriber) => {
        quota.meter({ inputTokens: 5 });
        subscriber.next({ data: "first" });
        quota.meter({ inputTokens: 5 });
        subscriber.next({ data: "last" });
        subscriber.complete();
      });
    }
  }

  test.each(["value", "res", "file", "observable", "sse"])("%s", async (kind) => {
    const { url, guard, left } = await app(Kinds, tokens);
    const settled = eventOf(guard, "settled");
    const response = await fetch(`${url}/${kind}`, { method: kind === "sse" ? "GET" : "POST", headers: { "x-user": "alice" } });
    expect(response.headers.get("ratelimit")).toContain('"user-tokens";r=40');
    expect(await response.text()).toContain(kind === "sse" ? "data: last" : kind);
    await settled;
    expect(await left("alice")).toBe(90);
  });

  test("an @Sse() route is refused with its status while the head is not out", async () => {
    const { url, left } = await app(Kinds, {
      limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 50, refillPerSec: 0 } }],
    });
    const refused = await fetch(`${url}/sse`, { headers: { "x-user": "alice" } });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ code: "budget_too_small" });
    expect(await left("alice")).toBe(50);
  });
});

test("an @Sse() route whose head is out is refused by its error event, and the handler does not run", async () => {
  const mayGo = new Subject<object>();
  let ran = false;

  @Controller()
  class Asking {
    @Sse("sse")
    @Budget({ ...budget, scopes: () => firstValueFrom(mayGo) })
    sse() {
      ran = true;
      return new Observable();
    }
  }
  const { url, left } = await app(Asking, {
    limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 50, refillPerSec: 0 } }],
  });
  const response = await fetch(`${url}/sse`);
  mayGo.next({ user: "alice" });
  expect(await response.text()).toMatch(/event: error\n.*data: limit user-tokens \(per user\) is smaller than this request/s);
  expect([ran, await left("alice")]).toEqual([false, 50]);
});

describe("a handler that nobody waits for any more", () => {
  /** Stands in for a timeout of the host's: it gives up when the test says so. */
  class GiveUp implements NestInterceptor {
    readonly now = new Subject<void>();
    intercept(_context: ExecutionContext, next: CallHandler): Observable<unknown> {
      return next.handle().pipe(
        takeUntil(this.now),
        throwIfEmpty(() => new RequestTimeoutException()),
      );
    }
  }

  test("has the signal of its quota aborted, and keeps the estimate", async () => {
    const giveUp = new GiveUp();
    const begun = new Subject<AbortSignal>();

    @Controller()
    @UseInterceptors(giveUp)
    class Slow {
      @Post("slow")
      @Budget(budget)
      slow(@Quota() quota: RequestQuota) {
        begun.next(quota.signal);
        return new Promise(() => {});
      }
    }
    const { url, left } = await app(Slow, tokens);
    const running = firstValueFrom(begun);
    const answer = fetch(`${url}/slow`, { method: "POST", headers: { "x-user": "alice" } });
    const signal = await running;
    expect(signal.aborted).toBe(false);
    giveUp.now.next();
    expect((await answer).status).toBe(408);
    expect(signal.aborted).toBe(true);
    expect(await left("alice")).toBe(40);
  });

  test("does not begin when nobody waits before the verdict is there, and everything is given back", async () => {
    const giveUp = new GiveUp();
    const asked = new Subject<void>();
    const mayGo = new Subject<object>();
    let ran = false;

    @Controller()
    @UseInterceptors(giveUp)
    class Late {
      @Post("late")
      @Budget({ ...budget, scopes: () => (asked.next(), firstValueFrom(mayGo)) })
      late() {
        ran = true;
        return "late";
      }
    }
    const { url, left } = await app(Late, tokens);
    const waiting = firstValueFrom(asked);
    const answer = fetch(`${url}/late`, { method: "POST" });
    await waiting;
    giveUp.now.next();
    mayGo.next({ user: "alice" });
    expect((await answer).status).toBe(408);
    expect(await left("alice")).toBe(100);
    expect(ran).toBe(false);
  });

  test("a client that leaves a stream settles what was metered until then", async () => {
    const ended = new Subject<void>();

    @Controller()
    class Streaming {
      @Sse("stream")
      @Budget(budget)
      stream(@Quota() quota: RequestQuota) {
        return new Observable((subscriber) => {
          quota.meter({ inputTokens: 7 });
          subscriber.next({ data: "first" });
          return () => ended.next();
        });
      }
    }
    const { url, guard, left } = await app(Streaming, tokens);
    const stopped = firstValueFrom(ended);
    const settled = eventOf(guard, "settled");
    const leaving = new AbortController();
    const response = await fetch(`${url}/stream`, { headers: { "x-user": "alice" }, signal: leaving.signal });
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    let text = "";
    while (!text.includes("data: first")) text += Buffer.from((await reader.read()).value ?? []).toString();
    expect(await left("alice")).toBe(40);
    leaving.abort();
    await Promise.all([stopped, settled]);
    expect(await left("alice")).toBe(93);
  });
});
