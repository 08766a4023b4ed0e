// Real Nest apps on real sockets.
import "reflect-metadata";
import type { DynamicModule, INestApplication, NestApplicationOptions, Type } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import type { NestExpressApplication } from "@nestjs/platform-express";
import type { AddressInfo } from "node:net";
import { afterEach } from "vitest";

const open = new Set<{ close(): Promise<unknown> }>();

/** Closes what each test of a file opened, last in, first out. */
export function closingAll(): void {
  afterEach(async () => {
    const left = [...open].toReversed();
    open.clear();
    for (const each of left) await each.close();
  });
}

export function later<T extends { close(): Promise<unknown> }>(opened: T): T {
  open.add(opened);
  return opened;
}

export interface StartOptions extends NestApplicationOptions {
  /** What main.ts does before it listens. */
  readonly main?: (app: NestExpressApplication) => void;
}

const closings = new WeakMap<INestApplication, Promise<void>>();

/** Closes an app once, however often it is asked to. */
export function closed(app: INestApplication): Promise<void> {
  let closing = closings.get(app);
  if (!closing) closings.set(app, (closing = app.close()));
  return closing;
}

/** An app that has not begun to listen. */
export async function created(module: Type | DynamicModule, { main, ...options }: StartOptions = {}): Promise<NestExpressApplication> {
  const app = await NestFactory.create<NestExpressApplication>(module, {
    logger: false,
    abortOnError: false,
    forceCloseConnections: true,
    ...options,
  });
  later({ close: () => closed(app) });
  main?.(app);
  return app;
}

export async function listening(app: INestApplication): Promise<string> {
  await app.listen(0, "127.0.0.1");
  return `http://127.0.0.1:${(app.getHttpServer().address() as AddressInfo).port}`;
}

/** An app that listens, and where. */
export async function started(
  module: Type | DynamicModule,
  options: StartOptions = {},
): Promise<{ readonly app: NestExpressApplication; readonly url: string }> {
  const app = await created(module, options);
  return { app, url: await listening(app) };
}

/** `POST` with JSON, as whoever the header says. */
export const post = (url: string, user?: string, body: object = {}, signal?: AbortSignal): Promise<Response> =>
  fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...(user === undefined ? {} : { "x-login": user }) },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
