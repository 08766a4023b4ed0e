/** The edge of plugins' routes, below `<management path>/plugins`. Their steps know no socket, so they are served without Express. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Services } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Step } from "../core/step.ts";
import { answerWith, type Next } from "../http/handler.ts";
import { openContext, pathBelowMount, type OpenOptions } from "../http/open.ts";
import type { PluginRoute, PluginRoutes } from "../plugin-routes.ts";

type Handle = (req: IncomingMessage, res: ServerResponse, next: Next) => void;

export interface PluginEdge {
  /** Serves public routes; everything else goes on. Stands before the management key is asked for. */
  readonly open: Handle;
  /** Serves all of them. */
  readonly keyed: Handle;
}

export interface PluginEdgeParts {
  readonly opening: OpenOptions;
  /** Once the plugins are set up; rejects when they cannot be. */
  readonly routes: () => Promise<PluginRoutes | undefined>;
}

/** No model call: no row, no event, no metric of requests. Whoever may call a public route must not fill the ledger. */
const quiet = ({ events, ...services }: Services): Services => ({
  ...services,
  events: { ...events, has: () => false },
  recorder: { intent: () => undefined, attempt: () => undefined, close: () => undefined },
});

export function pluginEdge({ opening, routes }: PluginEdgeParts): PluginEdge {
  const own: OpenOptions = { ...opening, services: quiet(opening.services) };

  function serve(step: Step, label: string, req: IncomingMessage, res: ServerResponse, next: Next): void {
    answerWith(step, openContext(req, res, own, label, null), req, res, next);
  }

  const edge =
    (isOpen: boolean): Handle =>
    (req, res, next) => {
      // A preflight is the host's own business.
      if (req.method === "OPTIONS") return next();
      const { path } = pathBelowMount(req);
      const dispatch = (found: PluginRoutes | undefined): void => {
        const here = found?.at(path) ?? [];
        const route = here.find(({ method }) => method === asked(req));
        if (route && (route.isPublic || !isOpen)) return serve(route.step, `/plugins${route.path}`, req, res, next);
        const others = isOpen ? here.filter(({ isPublic }) => isPublic) : here;
        // Where another method is public, this one may still need the key.
        if (route || others.length === 0 || (isOpen && others.length < here.length)) return next();
        serve(wrongMethod(others), `/plugins${others[0]?.path}`, req, res, next);
      };
      routes()
        .then(dispatch, (error: unknown) =>
          serve(
            () => {
              throw error;
            },
            "/plugins",
            req,
            res,
            next,
          ),
        )
        .catch(next);
    };
  return { open: edge(true), keyed: edge(false) };
}

const asked = ({ method = "GET" }: IncomingMessage): string => (method === "HEAD" ? "GET" : method);

const wrongMethod =
  (routes: readonly PluginRoute[]): Step =>
  () => {
    const allow = routes.map(({ method }) => method).join(", ");
    throw new GuardError("method_not_allowed", `use ${allow} here`, { headers: { allow } });
  };
