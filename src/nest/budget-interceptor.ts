import type { IncomingMessage, ServerResponse } from "node:http";
import { Inject, Injectable, type CallHandler, type ExecutionContext, type NestInterceptor, type Type } from "@nestjs/common";
import { INTERCEPTORS_METADATA } from "@nestjs/common/constants.js";
import { Reflector } from "@nestjs/core";
import { Observable, type Observer, type Subscriber } from "rxjs";
import { GuardError } from "../core/errors.ts";
import type { ScopesInput } from "../core/scope.ts";
import type { MaybePromise } from "../core/time.ts";
import { contextOf } from "../http/context-of.ts";
import { knownContext } from "../http/open.ts";
import type { ScopesFunction } from "../options/schema.ts";
import { refused, withoutSdk } from "./quota-guard-exception.ts";
import { QuotaGuardService } from "./quota-guard-service.ts";
import { budgetsOf, routeBudget, type Handle, type Place } from "./route-budgets.ts";

export interface RequestResponse {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
}

const reflector = new Reflector();

/** Handlers that some interceptor has taken care of, by request. */
const taken = new WeakMap<object, Set<Place>>();

/**
 * Holds what `@Budget()` asks for after all guards and before the handler, and settles when the response closes. It throws refusals as
 * `QuotaGuardException`, also those that a client of `guard.sdk()` met inside the handler. A handler that stopped waiting (a timeout of the host's) has the
 * signal of its quota aborted.
 *
 * `@Budget()` binds it by itself. To say whose budgets, or where request and response are, bind a subclass beside it: `@UseInterceptors(TenantBudgets)` on
 * the method or the class, or globally. One interceptor does all the budgets of a handler, once for each request: a subclass rather than this one; of
 * several the first to run.
 *
 * Nest sends the head of an `@Sse()` route before an interceptor has had time to ask a server; a refusal after that is its `error` event.
 */
export class BudgetInterceptor implements NestInterceptor {
  protected readonly guard: QuotaGuardService;
  readonly #budgets = new WeakMap<Type, WeakMap<Place, readonly Handle[] | null>>();
  /** Where each request is: what `scopes()` is told of them. */
  readonly #contexts = new WeakMap<object, ExecutionContext>();

  constructor(guard: QuotaGuardService) {
    this.guard = guard;
  }

  /** Node's own request and response: those of HTTP. A GraphQL resolver has them in its context. */
  protected getRequestResponse(context: ExecutionContext): RequestResponse {
    const type = context.getType<string>();
    if (type !== "http") {
      throw new GuardError("internal", `@Budget() on a ${type} handler: bind a subclass of BudgetInterceptor that has getRequestResponse(context)`);
    }
    const http = context.switchToHttp();
    return { req: http.getRequest<IncomingMessage>(), res: http.getResponse<ServerResponse>() };
  }

  /** For subclasses: whose budgets, besides what the guard's own `scopes` says. Not asked where `@Budget({ scopes })` says it. */
  protected scopes(_req: IncomingMessage, _context: ExecutionContext): MaybePromise<ScopesInput> {
    return {};
  }

  /** Whether this is the guard it holds budgets of. */
  isOf(guard: QuotaGuardService): boolean {
    return this.guard === guard;
  }

  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const handler = context.getHandler() as Place;
    const budgets = this.#budgetsOf(context.getClass(), handler);
    // Where nothing is counted there is still HTTP that an SDK's refusal may be told by.
    if (budgets === null || (budgets.length === 0 && context.getType() !== "http")) return next.handle();
    const { req, res } = this.getRequestResponse(context);
    if (!takes(req, handler)) return next.handle();
    this.#contexts.set(req, context);
    return new Observable((subscriber) => {
      let hasSaid = false;
      const said = (): void => void (hasSaid = true);
      const pass = (at: number): void => {
        const budget = budgets[at];
        if (budget) {
          budget(req, res, (error) => (error === undefined ? pass(at + 1) : fail(error)));
          return;
        }
        // Asked for here and not before: clients inside the handler find its budgets by the asynchronous context that the guard calls us in.
        if (!subscriber.closed) subscriber.add(next.handle().subscribe(passingOn(subscriber, res, said)));
        // Nobody waits for the handler any more, so it does not run, and nothing is spent.
        else if (budgets.length > 0) contextOf(req).release();
      };
      const fail = (error: unknown): void => {
        said();
        subscriber.error(GuardError.is(error) ? refused(error, res) : error);
      };
      pass(0);
      return () => {
        if (!hasSaid) knownContext(req)?.leave();
      };
    });
  }

  /** Each of them, in the order in which they are held. Null = another interceptor does the work. */
  #budgetsOf(controller: Type, handler: Place): readonly Handle[] | null {
    let byHandler = this.#budgets.get(controller);
    if (!byHandler) this.#budgets.set(controller, (byHandler = new WeakMap()));
    let budgets = byHandler.get(handler);
    if (budgets === undefined) byHandler.set(handler, (budgets = this.#newBudgets(controller, handler)));
    return budgets;
  }

  #newBudgets(controller: Type, handler: Place): readonly Handle[] | null {
    if (this.constructor === BudgetInterceptor && [controller, handler].some(bindsSubclass)) return null;
    const ours: ScopesFunction = (req) => this.scopes(req, this.#contexts.get(req) as ExecutionContext);
    const scopes = this.scopes === BudgetInterceptor.prototype.scopes ? undefined : ours;
    return budgetsOf(controller, handler).map((options) => routeBudget(this.guard, options, scopes));
  }
}

Injectable()(BudgetInterceptor);
Inject(QuotaGuardService)(BudgetInterceptor, undefined, 0);

function passingOn(subscriber: Subscriber<unknown>, res: ServerResponse, said: () => void): Observer<unknown> {
  return {
    next(value) {
      said();
      subscriber.next(value);
    },
    error(thrown) {
      said();
      subscriber.error(withoutSdk(thrown, res));
    },
    complete() {
      said();
      subscriber.complete();
    },
  };
}

/** True for the first who asks. */
function takes(req: object, handler: Place): boolean {
  let handlers = taken.get(req);
  if (!handlers) taken.set(req, (handlers = new Set()));
  return handlers.size < handlers.add(handler).size;
}

function bindsSubclass(place: Place): boolean {
  const bound = reflector.get<readonly unknown[] | undefined>(INTERCEPTORS_METADATA, place) ?? [];
  return bound.some((interceptor) =>
    typeof interceptor === "function"
      ? interceptor.prototype instanceof BudgetInterceptor
      : interceptor instanceof BudgetInterceptor && interceptor.constructor !== BudgetInterceptor,
  );
}
