import { expect, test } from "vitest";
import type { GuardError } from "../../src/core/errors.ts";
import { fetchExchange, type Fetch } from "../../src/upstream/fetch-exchange.ts";

const URL_CHAT = new URL("https://provider.example/v1/chat/completions");

/** Sends by `fetch` and notes all that is told. `data` says whether more may come. */
function sent(fetch: Fetch, data: () => boolean = () => true) {
  const told: unknown[] = [];
  const over = Promise.withResolvers<void>();
  const exchange = fetchExchange(
    fetch,
    URL_CHAT,
    { method: "POST" },
    {
      head: (status, headers) => void told.push(status, headers["content-type"]),
      data: (chunk) => (told.push(chunk.toString()), data()),
      end: () => (told.push("end"), over.resolve()),
      fail: (error, isSent) => (told.push(error, isSent), over.resolve()),
    },
  );
  return { exchange, told, over: over.promise };
}

/** An answer that is told piece by piece. */
function answer() {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const writer = writable.getWriter();
  const say = (text: string): Promise<void> => writer.write(Buffer.from(text));
  return { fetch: () => Promise.resolve(new Response(readable, { headers: { "content-type": "text/plain" } })), say, writer };
}

test("tells head, pieces and end in this order", async () => {
  const { fetch, say, writer } = answer();
  const { told, over } = sent(fetch);
  expect(told).toEqual([]);
  await say("one");
  await say("two");
  void writer.close();
  await over;
  expect(told).toEqual([200, "text/plain", "one", "two", "end"]);
});

test("reads nothing more while it is paused", async () => {
  const { fetch, say, writer } = answer();
  let isFirst = true;
  const { exchange, told, over } = sent(fetch, () => {
    if (!isFirst) return true;
    isFirst = false;
    return false;
  });
  await say("one");
  const second = say("two");
  for (let i = 0; i < 20; i += 1) await new Promise(setImmediate);
  expect(told).toEqual([200, "text/plain", "one"]);
  exchange.resume();
  await second;
  void writer.close();
  await over;
  expect(told).toEqual([200, "text/plain", "one", "two", "end"]);
});

test("an answer without a body ends at once", async () => {
  const { told, over } = sent(() => Promise.resolve(new Response(null, { status: 204 })));
  await over;
  expect(told).toEqual([204, undefined, "end"]);
});

test.each<[string, () => Promise<Response>, string]>([
  ["a connection that fails", () => Promise.reject(new TypeError("fetch failed", { cause: { code: "ECONNREFUSED" } })), "upstream_unreachable"],
  ["undici's own timeout", () => Promise.reject(new TypeError("fetch failed", { cause: { code: "UND_ERR_HEADERS_TIMEOUT" } })), "upstream_timeout"],
  ["a signal's timeout", () => Promise.reject(new DOMException("too late", "TimeoutError")), "upstream_timeout"],
  [
    "a fetch that throws at once",
    () => {
      throw new Error("a bug of the host's");
    },
    "upstream_unreachable",
  ],
])("%s is told once, and not before the caller has the exchange", async (_name, fetch, code) => {
  const { told, over } = sent(fetch);
  expect(told).toEqual([]);
  await over;
  expect(told).toMatchObject([{ code }, true]);
  expect((told[0] as GuardError).message).toContain("provider.example");
});

test("a break in the middle is told after what came before it", async () => {
  const { fetch, say, writer } = answer();
  const { told, over } = sent(fetch);
  await say("one");
  void writer.abort(new Error("reset"));
  await over;
  expect(told).toMatchObject([200, "text/plain", "one", { code: "upstream_unreachable" }, true]);
});

test.each(["before the head", "in the middle", "while it is paused"])("given up %s, it is aborted and nothing more is told", async (when) => {
  let signal: AbortSignal | null | undefined;
  const { fetch, say } = answer();
  const waiting = Promise.withResolvers<Response>();
  const { exchange, told } = sent(
    async (_url, init) => {
      ({ signal } = init ?? {});
      return when === "before the head" ? waiting.promise : fetch();
    },
    () => when !== "while it is paused",
  );
  await new Promise(setImmediate);
  if (when !== "before the head") await say("one");
  await new Promise(setImmediate);
  const before = told.length;
  exchange.abort();
  waiting.resolve(new Response("late"));
  void say("two").catch(() => undefined);
  for (let i = 0; i < 20; i += 1) await new Promise(setImmediate);
  expect([signal?.aborted, told.length]).toEqual([true, before]);
});
