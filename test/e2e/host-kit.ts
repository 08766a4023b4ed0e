import express, { type Express } from "express";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createGuard, type GatewayHandler, type GuardOptions, type QuotaGuard } from "quotaguard";
import { fakeUpstream, pacer, type FakeUpstream } from "quotaguard/testing";
import { expect, onTestFinished } from "vitest";
import { keptLogger } from "../core/context-kit.ts";
import { chat, gatewayOptions } from "../helpers/app.ts";

/** One bucket that never refills: what is left says to the unit what was charged. */
const CAPACITY = 1_000_000;

export interface Host {
  readonly upstream: FakeUpstream;
  readonly guard: QuotaGuard;
  readonly gateway: GatewayHandler;
  /** Diagnostics, in the order they were logged. */
  codes(): readonly string[];
  /** How each request ended by its row, once all have; alice was charged exactly what the provider bills. */
  settled(): Promise<readonly string[]>;
}

export interface ListeningHost extends Host {
  readonly url: string;
  readonly server: Server;
}

/** A guard that counts one user's tokens, in front of a fake provider. No logger is silent: `logger: undefined` in `more` leaves the default. */
export async function hostGuard(more: GuardOptions = {}): Promise<Host> {
  const upstream = await fakeUpstream();
  const logger = keptLogger();
  const guard = createGuard(
    gatewayOptions(upstream, {
      logger,
      limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: CAPACITY, refillPerSec: 0 }, estimate: "expected" }],
      ...more,
    }),
  );
  onTestFinished(async () => {
    await guard.close();
    await upstream.close();
  });
  await guard.ready();
  return {
    upstream,
    guard,
    gateway: guard.handler(),
    codes: () => logger.lines.flatMap(({ fields }) => (String(fields["code"]).startsWith("QG_") ? String(fields["code"]) : [])),
    async settled() {
      await expect.poll(() => guard.admin.health().openRequests, { timeout: 10_000 }).toBe(0);
      const { tokens } = await guard.admin.bucket({ scope: "user", id: "alice" });
      const { inputTokens, outputTokens } = upstream.totals();
      expect(CAPACITY - tokens).toBe(inputTokens + outputTokens);
      const rows = await guard.ledger.list({ limit: 100 });
      return rows.map(({ state }) => state);
    },
  };
}

export async function listening(server: Server): Promise<string> {
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => {
      server.close(resolve);
    });
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** An Express app that the test builds around the gateway. */
export async function hostApp(build: (app: Express, host: Host) => void, more?: GuardOptions): Promise<ListeningHost> {
  const host = await hostGuard(more);
  const app = express();
  build(app, host);
  const server = createServer(app);
  return { ...host, server, url: await listening(server) };
}

/** A stream whose next event is let out only when the one before has arrived: bytes that somebody holds back would never come. */
export async function pacedStream({ upstream, url }: Pick<ListeningHost, "upstream" | "url">, headers: Record<string, string> = {}): Promise<string> {
  const events = pacer();
  upstream.script({ pacer: events });
  const pending = chat(url, { stream: true, stream_options: { include_usage: true } }, { headers });
  events.step();
  const response = await pending;
  expect(response.headers.get("content-type")).toContain("text/event-stream");
  expect(response.headers.get("content-encoding")).toBeNull();
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  let text = "";
  for (let i = 0; i < 3; i += 1) {
    const { value } = await reader.read();
    text += Buffer.from(value ?? []).toString();
    expect(text.split("data: ").length - 1).toBe(i + 1);
    events.step();
  }
  events.open();
  for (let read = await reader.read(); !read.done; read = await reader.read()) text += Buffer.from(read.value).toString();
  upstream.script({});
  return text;
}
