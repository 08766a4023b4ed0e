// Vitest's globalSetup. Nothing is started here: a small broker on 127.0.0.1 starts a server when the first test file asks for it (through
// `testServer()`), so a run without such files costs nothing, two servers start side by side, and all workers share one of each.
import { once } from "node:events";
import { createServer } from "node:http";
import type { TestProject } from "vitest/node";
import { startPostgres } from "./postgres.ts";
import { startRedis } from "./redis.ts";
import { type RunningServer, ServerMissing } from "./server-process.ts";

declare module "vitest" {
  export interface ProvidedContext {
    /** Origin of the broker. */
    testServers: string;
  }
}

const START = { redis: startRedis, postgres: startPostgres };

export type ServerName = keyof typeof START;

/** What the broker says: a server, a server that may be missing (with a hint), or a failure of the run. */
export type BrokerAnswer = { readonly url: string } | { readonly missing: string } | { readonly error: string };

async function start(name: ServerName, servers: RunningServer[]): Promise<BrokerAnswer> {
  try {
    const server = await START[name]();
    servers.push(server);
    return { url: server.url };
  } catch (error) {
    if (!(error instanceof ServerMissing)) return { error: String(error) };
    const message = error.cause instanceof Error ? `${error.message} (${error.cause.message.trim()})` : error.message;
    // On a person's machine a missing server is an inconvenience. In CI it would be a hole that nobody sees.
    if (process.env["CI"]) return { error: `${message}. With CI set this is a failure, not a skip.` };
    console.warn(`\n!!! The tests that need ${name} are SKIPPED: ${message}\n`);
    return { missing: message };
  }
}

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const answers = new Map<string, Promise<BrokerAnswer>>();
  const servers: RunningServer[] = [];
  const broker = createServer((req, res) => {
    const name = (req.url ?? "").slice(1);
    if (!(name === "redis" || name === "postgres")) {
      res.writeHead(404).end();
      return;
    }
    const answer = answers.get(name) ?? start(name, servers);
    answers.set(name, answer);
    void answer.then((body) => res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body)));
  }).listen(0, "127.0.0.1");
  await once(broker, "listening");
  const address = broker.address();
  if (address === null || typeof address === "string") throw new Error("the broker of the test servers has no port");
  project.provide("testServers", `http://127.0.0.1:${address.port}`);

  // A signal's default action would end this process without its exit event, and leave the servers behind.
  const onSignal = (): never => process.exit(1);
  for (const signal of ["SIGTERM", "SIGHUP"] as const) process.once(signal, onSignal);

  return async function teardown() {
    broker.close();
    broker.closeAllConnections();
    await Promise.all(answers.values());
    await Promise.all(servers.map((server) => server.stop()));
  };
}
