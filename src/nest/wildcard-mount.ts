import type { IncomingMessage } from "node:http";
import type { GatewayHandler } from "../guard.ts";
import type { Next } from "../http/handler.ts";

/** What Express adds to a request. */
interface Routed extends IncomingMessage {
  url: string;
  originalUrl: string;
  baseUrl: string;
  params?: Readonly<Record<string, unknown>>;
}

/**
 * Makes the gateway find its mount point behind `consumer.apply(gateway).forRoutes("llm/*path")`, too: there Express takes what a wildcard stands for as a
 * part of the mount point, or leaves the mount point out.
 */
export function wildcardMount(gateway: GatewayHandler): GatewayHandler {
  const mounted: (...parameters: Parameters<GatewayHandler>) => void = (incoming, res, next) => {
    const req = incoming as Routed;
    const rest = Object.values(req.params ?? {}).findLast((value) => Array.isArray(value));
    if (rest === undefined) {
      gateway(req, res, next);
      return;
    }
    const { url, baseUrl } = req;
    const [path = "", ...query] = req.originalUrl.split(/(?=\?)/);
    const segments = path.split("/");
    req.baseUrl = segments.slice(0, segments.length - rest.length).join("/");
    req.url = path.slice(req.baseUrl.length) + query.join("");
    const goOn: Next = (error) => {
      req.url = url;
      req.baseUrl = baseUrl;
      next(error);
    };
    gateway(req, res, goOn);
  };
  Object.defineProperty(mounted, "name", { value: gateway.name });
  const { step, guard, upgrade, ready, close } = gateway;
  return Object.assign(mounted, { step, guard, upgrade, ready, close });
}
