// light-my-request calls an app without a socket. It also changes the prototypes of Express for the whole process, hence a file of its own.
import express from "express";
import inject from "light-my-request";
import { describe, expect, test } from "vitest";
import { contextOf } from "quotaguard";
import { KEY } from "../helpers/app.ts";
import { hostGuard } from "./host-kit.ts";

type App = Parameters<typeof inject>[0];

const PATH = "/llm/v1/chat/completions";
const CALL = { model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] };
const STREAM = { ...CALL, stream: true, stream_options: { include_usage: true } };
const HEADERS = { "content-type": "application/json", authorization: `Bearer ${KEY}` };

describe("a request without a socket", () => {
  test("to the gateway is answered whole and streamed, and ends once", async () => {
    const host = await hostGuard();
    const app = express().use("/llm", host.gateway) as unknown as App;
    const whole = await inject(app, { method: "POST", url: PATH, headers: HEADERS, payload: CALL });
    expect([whole.statusCode, whole.json()]).toMatchObject([200, { object: "chat.completion" }]);
    const streamed = await inject(app, { method: "POST", url: PATH, headers: HEADERS, payload: STREAM });
    expect([streamed.statusCode, streamed.payload.endsWith("data: [DONE]\n\n")]).toEqual([200, true]);
    const refused = await inject(app, { method: "POST", url: PATH, payload: CALL });
    expect([refused.statusCode, refused.json()]).toMatchObject([401, { error: { code: "unauthenticated" } }]);
    expect(await host.settled()).toEqual(["settled", "settled"]);
    const rows = await host.guard.ledger.list({ limit: 10 });
    expect(rows.map(({ status, code }) => [status, code])).toEqual([
      [200, null],
      [200, null],
    ]);
  });

  test("to a route of the host's is settled as metered", async () => {
    const host = await hostGuard();
    const app = express();
    app.post("/own", host.guard.auth(), host.guard.scopes(), host.guard.budgets({ limits: ["user-tokens"], cost: { tokens: 500 } }), (req, res) => {
      contextOf(req).meter({ inputTokens: 20, outputTokens: 22 });
      res.json({ ok: contextOf(req).signal.aborted });
    });
    const response = await inject(app as App, { method: "POST", url: "/own", headers: HEADERS, payload: {} });
    expect([response.statusCode, response.json()]).toEqual([200, { ok: false }]);
    await expect.poll(() => host.guard.admin.health().openRequests).toBe(0);
    expect((await host.guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(1_000_000 - 42);
    expect(await host.guard.ledger.list({ limit: 10 })).toMatchObject([{ state: "settled", status: 200, code: null }]);
  });
});
