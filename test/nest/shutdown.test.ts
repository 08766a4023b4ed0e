// The end of an app: open streams settle before the process goes, and none holds it up for ever.
import { Controller, Module, Sse } from "@nestjs/common";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createGuard, type GuardOptions, type LedgerRow, type RequestQuota } from "quotaguard";
import { Budget, Quota, QuotaGuardModule } from "quotaguard/nest";
import { fakeUpstream, pacer } from "quotaguard/testing";
import { Observable } from "rxjs";
import { gatewayOptions, KEY } from "../helpers/app.ts";
import { endChildren, folder, ROOT, shell, type Folder } from "../helpers/child.ts";
import { closed, closingAll, later, started } from "./nest-kit.ts";

closingAll();

let place: Folder;
beforeEach(() => {
  place = folder();
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const limits: GuardOptions["limits"] = [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 10_000, refillPerSec: 0 } }];
const store = (): GuardOptions["store"] => ({ url: `sqlite:${place.path}/quota.db` });

/** What the database says once the app is gone. */
async function afterwards(): Promise<{ readonly rows: readonly LedgerRow[]; readonly left: number }> {
  const guard = createGuard({ store: store(), limits });
  await guard.ready();
  const rows = await guard.ledger.list({});
  const { tokens } = await guard.admin.bucket({ scope: "user", id: "alice" });
  await guard.close();
  return { rows, left: tokens };
}

const stream = (url: string): Promise<Response> =>
  fetch(`${url}/llm/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${KEY}` },
    body: JSON.stringify({ model: "gpt-4o-mini", stream: true, max_tokens: 100, messages: [{ role: "user", content: "one two three" }] }),
  });

test("app.close() waits for an open stream of the gateway, and its row is there", async () => {
  const upstream = later(await fakeUpstream());
  const { app, url } = await started(QuotaGuardModule.forRoot({ ...gatewayOptions(upstream), store: store(), limits, mount: "/llm" }));
  const events = pacer();
  upstream.script({ pacer: events });
  const pending = stream(url);
  events.step();
  const response = await pending;
  const closing = closed(app);
  // The shutdown has begun: whoever comes now is turned away.
  let late = await stream(url);
  while (late.status !== 503) late = await stream(url);
  expect(late.headers.get("connection")).toBe("close");
  events.open();
  expect((await response.text()).trimEnd().endsWith("data: [DONE]")).toBe(true);
  await closing;
  const { rows, left } = await afterwards();
  const [row] = rows.filter(({ state }) => state === "settled");
  expect(row).toMatchObject({ provenance: "exact", scopes: { user: "alice" } });
  expect(left).toBeGreaterThan(9_900);
});

test("a stream that does not end is cut after the shutdown timeout, charged by what it metered", async () => {
  @Controller()
  class Endless {
    @Sse("endless")
    @Budget({ limits: ["user-tokens"], cost: { tokens: 500 }, scopes: () => ({ user: "alice" }) })
    endless(@Quota() quota: RequestQuota) {
      return new Observable((subscriber) => {
        quota.meter({ inputTokens: 40 });
        subscriber.next({ data: "first" });
      });
    }
  }

  @Module({ imports: [QuotaGuardModule.forRoot({ store: store(), limits, server: { shutdownTimeout: 50 } })], controllers: [Endless] })
  class App {}
  const { app, url } = await started(App);
  const response = await fetch(`${url}/endless`);
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  await reader.read();
  await closed(app);
  expect((await afterwards()).left).toBe(9_960);
});

test("SIGTERM under enableShutdownHooks() settles an open stream before the process goes", async () => {
  const upstream = later(await fakeUpstream());
  const child = shell(`exec node --conditions=@quotaguard/source ${join(ROOT, "test/nest/gateway-process.mjs")}`, {
    cwd: ROOT,
    env: { UPSTREAM: upstream.url, KEY, STORE: `sqlite:${place.path}/quota.db` },
  });
  const url = await child.line(/http:\/\/127\.0\.0\.1:\d+/);
  const events = pacer();
  upstream.script({ pacer: events });
  const pending = stream(url);
  events.step();
  const response = await pending;
  child.kill("SIGTERM");
  let late = await stream(url);
  while (late.status !== 503) late = await stream(url);
  events.open();
  expect((await response.text()).trimEnd().endsWith("data: [DONE]")).toBe(true);
  expect(await child.ended).toMatchObject({ signal: "SIGTERM", stderr: "" });
  const { rows, left } = await afterwards();
  expect(rows.filter(({ state }) => state === "settled").length).toBeGreaterThan(0);
  expect(left).toBeGreaterThan(9_000);
});
