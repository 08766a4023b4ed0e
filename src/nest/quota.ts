import { createParamDecorator, type ExecutionContext } from "@nestjs/common";
import { contextOf } from "../http/context-of.ts";

/**
 * Hands a handler its request's budget, the same object as `contextOf(req)`: `meter()`, `release()`, `signal`. In a GraphQL resolver the request is
 * `req` of the context.
 */
export const Quota: () => ParameterDecorator = createParamDecorator((_data: unknown, context: ExecutionContext) => contextOf(requestOf(context)));

function requestOf(context: ExecutionContext): object {
  if (context.getType() === "http") return context.switchToHttp().getRequest<object>();
  return context.getArgByIndex<{ readonly req?: object } | undefined>(2)?.req ?? {};
}
