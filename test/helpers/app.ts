import express, { type Express } from "express";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createGuard, type GuardOptions, type QuotaGuard } from "quotaguard";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { kept } from "./place.ts";

export const KEY = "qg-test-key-of-alice-0001";
export const OTHER_KEY = "qg-test-key-of-bob-00002";
export const UPSTREAM_KEY = "sk-upstream-secret-canary-1";

export interface Listening {
  readonly url: string;
  readonly server: Server;
  close(): Promise<void>;
}

/** Starts any Express app on a free port of the loopback. */
export async function listen(app: Express): Promise<Listening> {
  const server = createServer(app);
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    server,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => {
        server.close(resolve);
      });
    },
  };
}

export interface TestGateway {
  readonly upstream: FakeUpstream;
  readonly guard: QuotaGuard;
  readonly url: string;
  close(): Promise<void>;
}

/** Options of a gateway in front of the fake upstream: two keys, one credential. */
export function gatewayOptions(upstream: FakeUpstream, more: GuardOptions = {}): GuardOptions {
  return {
    auth: {
      keys: [
        { name: "alice", key: KEY, scopes: { team: "data", role: "dev", user: "alice" } },
        { name: "bob", key: OTHER_KEY, scopes: { team: "data", role: "dev", user: "bob" } },
      ],
    },
    credentials: [{ name: "main", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: upstream.url }],
    ...kept(more.clock),
    ...more,
  };
}

/** A host app with the gateway at `/llm`, in front of a fake upstream. */
export async function testGateway(
  more: GuardOptions | ((upstream: FakeUpstream) => GuardOptions) = {},
  prepare?: (app: Express) => void,
): Promise<TestGateway> {
  const upstream = await fakeUpstream();
  const guard = createGuard(gatewayOptions(upstream, typeof more === "function" ? more(upstream) : more));
  const app = express();
  prepare?.(app);
  app.use("/llm", guard.handler());
  await guard.ready();
  const listening = await listen(app);
  return {
    upstream,
    guard,
    url: listening.url,
    async close() {
      await listening.close();
      await guard.close();
      await upstream.close();
    },
  };
}

/** A chat completion by plain fetch. */
export function chat(
  url: string,
  body: Record<string, unknown> = {},
  init: { readonly key?: string; readonly headers?: Record<string, string>; readonly signal?: AbortSignal } = {},
): Promise<Response> {
  const { key = KEY, headers, signal } = init;
  return fetch(`${url}/llm/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}`, ...headers },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }], ...body }),
    ...(signal ? { signal } : {}),
  });
}
