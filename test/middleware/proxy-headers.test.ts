// Which headers cross the gateway, on real connections: nothing of the client's goes on by accident, nothing of the provider's comes back by accident.
import { once } from "node:events";
import { request, type IncomingMessage } from "node:http";
import { afterEach, describe, expect, test } from "vitest";
import { chat, KEY, testGateway, UPSTREAM_KEY, type TestGateway } from "../helpers/app.ts";

let gateway: TestGateway;
afterEach(() => gateway.close());

const start = async (): Promise<void> => {
  gateway = await testGateway();
};

describe("headers on the wire", () => {
  /** Sends any headers, also those that `fetch` forbids. */
  async function exchange(headers: Record<string, string>): Promise<IncomingMessage> {
    const sending = request(`${gateway.url}/llm/v1/chat/completions`, { method: "POST", headers });
    sending.end('{"model":"gpt-4o","messages":[]}');
    const [response] = (await once(sending, "response")) as [IncomingMessage];
    response.resume();
    await once(response, "end");
    return response;
  }
  const sentHeaders = (): Readonly<Record<string, unknown>> => gateway.upstream.log.at(-1)?.headers ?? {};

  test("the provider sees its own key and what its row lets through, and nothing else of the client", async () => {
    await start();
    await exchange({
      authorization: `Bearer ${KEY}`,
      "x-api-key": KEY,
      "x-goog-api-key": KEY,
      cookie: "session=secret",
      accept: "application/json",
      "openai-beta": "assistants=v2",
      "openai-organization": "org-client",
      "openai-project": "project-client",
      "user-agent": "someone/1",
      "x-stainless-os": "Linux",
      "x-request-id": "mine",
      "idempotency-key": "i1",
      "x-user-id": "alice",
      "x-quotaguard-tag": "t",
      forwarded: "for=192.0.2.1",
      "x-forwarded-for": "192.0.2.1",
      "x-forwarded-proto": "https",
      "x-forwarded-host": "inside.test",
      "x-real-ip": "192.0.2.1",
      "true-client-ip": "192.0.2.1",
      "cf-connecting-ip": "192.0.2.1",
      "cf-ray": "r1",
      via: "1.1 inside",
      referer: "https://inside.test/",
      origin: "https://inside.test",
      connection: "keep-alive, x-hop",
      "keep-alive": "timeout=9",
      "x-hop": "1",
      te: "trailers",
      trailer: "x-checksum",
      "transfer-encoding": "chunked",
      "proxy-authorization": "Basic x",
      "proxy-connection": "keep-alive",
      "accept-encoding": "gzip, br",
      "content-type": "application/json; charset=utf-8",
    });
    expect(sentHeaders()).toEqual({
      host: new URL(gateway.upstream.url).host,
      connection: "keep-alive",
      "user-agent": expect.stringMatching(/^quotaguard\//),
      authorization: gateway.upstream.digest(UPSTREAM_KEY),
      "accept-encoding": "identity",
      "content-type": "application/json; charset=utf-8",
      accept: "application/json",
      "openai-beta": "assistants=v2",
      "content-length": "32",
    });
  });

  test("what the client's Connection names stays on its own hop, even if the row would let it through", async () => {
    await start();
    await exchange({ authorization: `Bearer ${KEY}`, connection: "close, OpenAI-Beta", "openai-beta": "assistants=v2", accept: "*/*" });
    expect(sentHeaders()).not.toHaveProperty("openai-beta");
    expect(sentHeaders()).toMatchObject({ accept: "*/*", connection: "keep-alive" });
  });

  test.each([false, true])("the client sees none of the provider's cookies, accounts and limits (stream: %s)", async (stream) => {
    await start();
    gateway.upstream.script({
      headers: {
        "set-cookie": ["a=1", "b=2; HttpOnly"],
        "www-authenticate": "Bearer",
        "proxy-authenticate": "Basic",
        server: "cloudflare",
        via: "1.1 provider",
        "cf-ray": "r1",
        "alt-svc": "h3",
        "strict-transport-security": "max-age=1",
        "access-control-allow-origin": "*",
        "x-api-key": "theirs",
        connection: "close, OpenAI-Version",
      },
    });
    const response = await chat(gateway.url, { stream });
    await response.text();
    const ofOurServer = ["connection", "date", "keep-alive", "transfer-encoding", "content-length", "x-powered-by"];
    const names = [...response.headers.keys()].filter((name) => !ofOurServer.includes(name));
    const ours = stream ? ["cache-control", "x-accel-buffering"] : ["x-quotaguard-cost-usd"];
    expect(names.toSorted()).toEqual([...ours, "content-type", "openai-processing-ms", "x-request-id", "x-upstream-request-id"].toSorted());
    expect(response.headers.get("connection")).not.toContain("close");
  });

  test("nor with a refusal that is passed on", async () => {
    await start();
    gateway.upstream.script({ status: 400, headers: { "set-cookie": "a=1" } });
    const response = await chat(gateway.url);
    expect(response.status).toBe(400);
    expect(response.headers.get("set-cookie")).toBeNull();
    expect(response.headers.get("openai-organization")).toBeNull();
    expect(response.headers.get("x-upstream-request-id")).toBe("req_fake1");
  });
});
