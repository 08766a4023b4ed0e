/** The gateway as a server of its own: what a host app would otherwise bring. */
import express from "express";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Logger } from "../core/logger.ts";
import { GuardError } from "../core/errors.ts";
import type { QuotaGuard } from "../guard.ts";
import { callerDialect } from "../dialects/index.ts";
import { asProblem } from "../http/problem.ts";
import { dialectRefusal } from "../http/render.ts";
import { publicHealth } from "./public-health.ts";
import { keyMatcher, keyRefused } from "../management/key.ts";
import type { ResolvedOptions } from "../options/resolved.ts";

// Node's own defaults are too loose for an edge: a slow client may hold a socket for minutes.
const HEADERS_TIMEOUT_MS = 10_000;
/** For all of a request's body: files of hundreds of megabytes come over slow lines. */
const REQUEST_TIMEOUT_MS = 15 * 60_000;
const KEEP_ALIVE_TIMEOUT_MS = 65_000;
const CHECK_INTERVAL_MS = 5_000;
const MAX_REQUESTS_PER_SOCKET = 1_000;
const MAX_CONNECTIONS = 10_000;

/** Who asks there is a client of some dialect's. */
const API_PATH = /^\/v1(?:beta)?\//;

/** TokenGuard's API stands at the root, behind the management key. */
const BUDGET_API = /^\/(?:config\/(?:budget|refill-rate)|buckets\/.+|sync\/openai-limits)$/;

export interface GatewayServer {
  readonly url: string;
  /** Stops accepting, lets open requests finish, settles and closes. */
  close(): Promise<void>;
}

export interface GatewayServerOptions {
  readonly guard: QuotaGuard;
  readonly options: ResolvedOptions;
  readonly logger: Logger;
  /** Once the store is there. What it rejects with keeps the server from listening. */
  readonly beforeListening?: () => Promise<void>;
}

/** Starts listening. Rejects when the store cannot be opened or the address is taken. */
export async function gatewayServer({ guard, options, logger, beforeListening }: GatewayServerOptions): Promise<GatewayServer> {
  const app = express();
  app.disable("x-powered-by");
  app.set("trust proxy", options.server.trustProxy);
  const gateway = guard.handler({ otherPaths: true });
  const management = guard.management();

  app.get("/", (_req, res) => {
    res.json({ name: "quotaguard", status: "ok", time: new Date().toISOString(), backend: guard.admin.health().store });
  });
  app.get("/health", (_req, res) => {
    const { status, body } = publicHealth(guard.admin);
    res.status(status).json(body);
  });
  app.get("/metrics", metricsHandler(guard, options));
  app.use((req, res, next) => {
    if (BUDGET_API.test(req.path)) management(req, res, next);
    else next();
  });
  app.use(gateway);
  app.use((req, res) => {
    const error = new GuardError("not_found", `there is nothing at ${req.method} ${req.path.slice(0, 200)}`);
    if (!API_PATH.test(req.path)) return asProblem(error, res);
    const { status, headers, body } = dialectRefusal(error, callerDialect(undefined, req.path, req.headers), false);
    for (let i = 0; i < headers.length; i += 2) res.setHeader(headers[i] as string, headers[i + 1] as string);
    return void res.status(status).end(body);
  });

  const server = createServer(
    {
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
      connectionsCheckingInterval: CHECK_INTERVAL_MS,
    },
    app,
  );
  server.on("upgrade", gateway.upgrade);
  server.maxRequestsPerSocket = MAX_REQUESTS_PER_SOCKET;
  server.maxConnections = MAX_CONNECTIONS;

  await opened(guard);
  await beforeListening?.();
  await listen(server, options.server.port, options.server.host);
  const { address, family, port } = server.address() as AddressInfo;
  return {
    url: `http://${family === "IPv6" ? `[${address}]` : address}:${port}`,
    async close() {
      const closed = new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
      // What is idle goes now; a busy connection goes with its answer.
      server.closeIdleConnections();
      await guard.close();
      server.closeIdleConnections();
      const timer = setTimeout(() => {
        logger.warn({}, "connections were still open after the drain and are cut");
        server.closeAllConnections();
      }, 1_000);
      await closed;
      clearTimeout(timer);
    },
  };
}

const LOOPBACK = /^(?:localhost|127\.\d+\.\d+\.\d+|::1)$/;

/** Open on a loopback bind, else behind the management key or `monitoring.metrics_public`. */
function metricsHandler(guard: QuotaGuard, options: ResolvedOptions): express.RequestHandler {
  const isOpen = options.monitoring.metricsPublic || LOOPBACK.test(options.server.host);
  const expose: express.RequestHandler = async (_req, res) => {
    const metrics = await guard.metrics();
    if (!metrics) {
      asProblem(new GuardError("not_found", "metrics are off: set monitoring.prometheus_enabled and install prom-client"), res);
      return;
    }
    res.type(metrics.contentType).send(metrics.text);
  };
  if (isOpen) return expose;
  const { key } = options.management;
  const match = key ? keyMatcher(key) : null;
  return (req, res, next) => {
    if (match?.(req.headers.authorization) === "right") return expose(req, res, next);
    asProblem(
      match
        ? keyRefused()
        : new GuardError("not_found", "metrics are closed: set QUOTAGUARD_MANAGEMENT_KEY (management.key) or monitoring.metrics_public"),
      res,
    );
    return undefined;
  };
}

/** The options are right, so what fails here is the place they name: not a mistake in the configuration. */
async function opened(guard: QuotaGuard): Promise<void> {
  try {
    await guard.ready();
  } catch (error) {
    throw new Error(error instanceof Error ? error.message : String(error), { cause: error });
  }
}

const LISTEN_PROBLEMS: Readonly<Record<string, (host: string, port: number) => string>> = {
  EADDRINUSE: (host, port) => `server.port ${port} on ${host} is in use; stop what uses it or choose another with --port`,
  EACCES: (_host, port) => `server.port ${port} needs privileges that this process does not have; choose one above 1023 with --port`,
  EADDRNOTAVAIL: (host) => `server.host ${host} is no address of this machine; choose another with --host (0.0.0.0 = all of them)`,
  ENOTFOUND: (host) => `server.host ${host} cannot be resolved; choose another with --host`,
};

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const say = LISTEN_PROBLEMS[error.code ?? ""];
      reject(say ? new Error(say(host, port), { cause: error }) : error);
    });
    server.listen(port, host, resolve);
  });
}
