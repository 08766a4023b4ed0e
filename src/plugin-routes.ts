import { validateHeaderName, validateHeaderValue } from "node:http";
import { isSource, type Answer } from "./core/answer.ts";
import type { Context } from "./core/context.ts";
import { ConfigError, GuardError } from "./core/errors.ts";
import { hint } from "./core/nearest.ts";
import type { RouteOptions } from "./core/plugin.ts";
import type { Step } from "./core/step.ts";
import type { Clock } from "./core/time.ts";
import { pluginStream } from "./plugin-stream.ts";

const METHODS: ReadonlySet<string> = new Set(["GET", "POST", "PUT", "PATCH", "DELETE"]);
const PATH = /^(?:\/|(?:\/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+)$/;
/** Of one plugin. */
const MOST_ROUTES = 256;
const OPTIONS = ["public", "method"];
/** They say where an answer ends, which is the edge's to know: a second opinion would make the rest of a body look like the next answer. */
const FRAMING: ReadonlySet<string> = new Set(["content-length", "transfer-encoding", "connection", "keep-alive", "trailer", "upgrade"]);

/** One route as the edge serves it. */
export interface PluginRoute {
  readonly plugin: string;
  readonly method: string;
  /** Below `…/plugins`: `/telegram/webhook`. */
  readonly path: string;
  readonly isPublic: boolean;
  readonly step: Step;
}

/** The routes of all plugins of a guard, by path. */
export interface PluginRoutes {
  /** All methods of a path; a slash at its end does not count. */
  at(path: string): readonly PluginRoute[];
  /** @throws ConfigError for a route that cannot be served, or that is there already. Returns what takes it out. */
  add(route: PluginRoute): () => void;
}

export function pluginRoutes(): PluginRoutes {
  const byPath = new Map<string, PluginRoute[]>();
  const count = new Map<string, number>();
  return {
    at: (path) => byPath.get(path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path) ?? [],
    add(route) {
      const { plugin, method, path } = route;
      const here = byPath.get(path) ?? [];
      if (here.some((known) => known.method === method)) {
        throw new ConfigError([`the plugin ${plugin} has a route ${method} ${path.slice(plugin.length + 1) || "/"} already`]);
      }
      const known = count.get(plugin) ?? 0;
      if (known >= MOST_ROUTES) throw new ConfigError([`the plugin ${plugin} has ${MOST_ROUTES} routes, and more are not possible`]);
      count.set(plugin, known + 1);
      byPath.set(path, [...here, route]);
      return () => {
        const left = (byPath.get(path) ?? []).filter((other) => other !== route);
        if (left.length === (byPath.get(path) ?? []).length) return;
        if (left.length > 0) byPath.set(path, left);
        else byPath.delete(path);
        count.set(plugin, (count.get(plugin) ?? 1) - 1);
      };
    },
  };
}

export interface RouteParts {
  readonly plugin: string;
  readonly clock: Clock;
  /** How long a step may think before it answers. */
  readonly deadlineMs: number;
  /** Logs and counts what is the plugin's own fault. */
  readonly failed: (error: unknown) => void;
}

/** A route of a plugin: whatever its step does, somebody answers. */
export function pluginRoute(path: string, step: Step, options: RouteOptions, parts: RouteParts): PluginRoute {
  const { plugin } = parts;
  const refuse = (what: string): never => {
    throw new ConfigError([`the plugin ${plugin}: route ${what}`]);
  };
  if (typeof path !== "string" || !PATH.test(path))
    refuse("needs a path such as /status: segments of A-Z a-z 0-9 - . _ ~, without parameters and patterns");
  if (typeof step !== "function") refuse(`${path} needs a step: a function (ctx) => jsonAnswer(…)`);
  for (const name of Object.keys(options)) if (!OPTIONS.includes(name)) refuse(`${path} has no option ${name}${hint(name, OPTIONS)}`);
  const { public: isPublic = false, method = "GET" } = options;
  if (!METHODS.has(method)) refuse(`${path} takes one of the methods ${[...METHODS].join(", ")}`);
  return { plugin, method, path: `/${plugin}${path === "/" ? "" : path}`, isPublic, step: answering(step, parts) };
}

/** Refusals stay what they are; everything else that goes wrong is the plugin's fault, told in full to the log and not at all to the caller. */
function answering(step: Step, { plugin, clock, deadlineMs, failed }: RouteParts): Step {
  const refusal = (): GuardError => new GuardError("plugin_failed", `the plugin ${plugin} failed; the server's log says why`);

  return async function pluginStep(ctx) {
    try {
      const answer = await inTime(step, ctx);
      if (!isAnswer(answer)) throw new TypeError("the step returned no Answer { status, headers, body }; jsonAnswer(value) makes one");
      const headers = headersOf(answer);
      if (!headers.some((name, i) => i % 2 === 0 && name.toLowerCase() === "cache-control")) headers.push("cache-control", "no-store");
      const { body } = answer;
      if (isSource(body) && ctx.method === "HEAD") {
        // Nobody asked for it, and one without end would keep back whatever comes next on the connection.
        body.cancel();
        return { ...answer, headers, body: null };
      }
      return { ...answer, headers, body: isSource(body) ? pluginStream(body, { ctx, refusal, failed }) : body };
    } catch (error) {
      if (GuardError.is(error)) throw error;
      failed(error);
      throw refusal();
    }
  };

  function inTime(run: Step, ctx: Context): Promise<Answer | void> {
    return new Promise((resolve, reject) => {
      let isLate = false;
      const giveUp = (why: Error): void => {
        isLate = true;
        reject(why);
      };
      const timer = clock.timer(deadlineMs, () => giveUp(new Error(`the step did not answer within ${deadlineMs} ms`)));
      // The guard closes, and does not wait for it.
      ctx.onGone((reason) => reason && giveUp(reason));
      /** What streams would wait for its reader without end. */
      const inUse = (answer: Answer | void): Answer | void => {
        if (isLate && isAnswer(answer) && isSource(answer.body)) answer.body.cancel();
        return answer;
      };
      Promise.resolve(ctx)
        .then(run)
        .finally(() => {
          timer.cancel();
          ctx.onGone(undefined);
        })
        .then(inUse)
        .then(resolve, reject);
    });
  }
}

/** A copy, because the edge adds to it and a plugin may return the same object each time. Throws for what HTTP cannot carry. */
function headersOf({ headers, body }: Answer): string[] {
  try {
    return headers.filter((_text, i) => {
      const [name, value] = headers.slice(i - (i % 2)) as [string, string];
      validateHeaderName(name);
      validateHeaderValue(name, value);
      return !FRAMING.has(name.toLowerCase());
    });
  } catch (error) {
    if (isSource(body)) body.cancel();
    throw error;
  }
}

function isAnswer(value: Answer | void): value is Answer {
  if (typeof value !== "object" || value === null) return false;
  const { status, headers, body } = value;
  if (!Number.isInteger(status) || status < 200 || status > 599) return false;
  if (!Array.isArray(headers) || headers.length % 2 !== 0 || !headers.every((text) => typeof text === "string")) return false;
  return body === null || Buffer.isBuffer(body) || (isSource(body) && typeof body.start === "function");
}
