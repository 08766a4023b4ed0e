import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createGuard } from "quotaguard";
import { expectConserved, fakeUpstream, recordUpstream, replayUpstream, testClock, type FakeUpstream } from "quotaguard/testing";
import { parseRecording, type Recording } from "../../src/testing/recording/recording.ts";
import { listening } from "../../src/testing/recording/loopback.ts";
import { redaction } from "../../src/testing/recording/redaction.ts";

const opened: { close(): Promise<unknown> }[] = [];
const later = <T extends { close(): Promise<unknown> }>(each: T): T => {
  opened.push(each);
  return each;
};

let upstream: FakeUpstream;
beforeEach(async () => {
  upstream = later(await fakeUpstream());
});
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close();
});

const hello = { model: "gpt-4o", messages: [{ role: "user", content: "hello" }] };

const post = (
  url: string,
  body: unknown = hello,
  more: { readonly headers?: Record<string, string>; readonly path?: string } = {},
): Promise<Response> =>
  fetch(`${url}${more.path ?? "/v1/chat/completions"}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...more.headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

const textOf = async (response: Promise<Response>): Promise<string> => (await response).text();

/** What is left when times are taken out: they are never the same twice. */
function timeless({ exchanges }: Recording): unknown {
  return exchanges.map(({ request, answer }) => ({
    path: request.path,
    body: request.body,
    status: answer.status,
    end: answer.end,
    headers: Object.fromEntries(Object.entries(answer.headers).filter(([name]) => name !== "date" && name !== "keep-alive")),
    chunks: answer.chunks.map(({ text, base64 }) => text ?? base64),
  }));
}

/** Records what `asks` does with the recorder's address. */
async function recorded(target: string, asks: (url: string) => Promise<unknown>, redact: readonly string[] = []): Promise<string> {
  const recorder = await recordUpstream({ target, redact });
  try {
    await asks(recorder.url);
    await expect.poll(() => recorder.count + recorder.skipped.length).toBeGreaterThan(0);
    return recorder.text();
  } finally {
    await recorder.close();
  }
}

describe("a recording", () => {
  test("knows nothing of dialects: each plays back as it was, without its keys", async () => {
    const secret = "AIzaSyCanaryCanaryCanaryCanaryCanary000";
    const messages = { model: "m", max_tokens: 9, messages: hello.messages, stream: true };
    const contents = { contents: [{ role: "user", parts: [{ text: "hello" }] }] };
    const claude = { "anthropic-version": "2023-06-01", "x-api-key": secret };
    const asks = async (url: string): Promise<readonly string[]> => [
      await textOf(post(url, messages, { path: "/v1/messages", headers: claude })),
      await textOf(
        post(url, { model: "m", input: "hello", stream: true }, { path: "/v1/responses", headers: { authorization: `Bearer ${secret}` } }),
      ),
      await textOf(post(url, contents, { path: "/v1beta/models/g:streamGenerateContent?alt=sse", headers: { "x-goog-api-key": secret } })),
      await textOf(post(url, contents, { path: `/v1beta/models/g:streamGenerateContent?key=${secret}` })),
    ];
    let live: readonly string[] = [];
    const text = await recorded(upstream.url, async (url) => (live = await asks(url)), [secret]);
    expect(text).not.toContain("Canary");
    const replay = later(await replayUpstream({ text }));
    expect(await asks(replay.url)).toEqual(live);
    expect(live.map((each) => each.includes("said:"))).toEqual([true, true, true, true]);
  });

  test("plays back: the same status, headers, bytes and chunks, in the same order", async () => {
    upstream.script([
      { splitAt: [7, 30, 95, 200], text: ["Grüße ", "🙂", " end"] },
      { splitAt: [3, 120] },
      { status: 429, headers: { "retry-after": "7" } },
      { status: 200, body: "<html>busy</html>", headers: { "content-type": "text/html" } },
    ]);
    const asks = async (url: string): Promise<readonly string[]> => [
      await textOf(post(url, { ...hello, stream: true })),
      await textOf(post(url)),
      await textOf(post(url, { ...hello, n: 2 })),
      await textOf(post(url, { ...hello, n: 3 })),
      await textOf(fetch(`${url}/v1/models`)),
    ];
    let first: readonly string[] = [];
    const text = await recorded(upstream.url, async (url) => (first = await asks(url)));
    const recording = parseRecording(text);
    // Boundaries as the upstream made them, also inside a character.
    const [stream, whole, limited] = recording.exchanges.map(({ answer }) => answer);
    const lengths = stream?.chunks.map(({ text: part, base64 }) =>
      base64 === undefined ? Buffer.byteLength(part ?? "") : Buffer.from(base64, "base64").length,
    );
    expect(lengths?.slice(0, 4)).toEqual([7, 23, 65, 105]);
    expect(whole?.chunks.length).toBe(3);
    expect(limited).toMatchObject({ status: 429, headers: { "retry-after": "7" }, end: "done" });

    const replay = later(await replayUpstream({ text }));
    let again: readonly string[] = [];
    const second = await recorded(replay.url, async (url) => (again = await asks(url)));
    expect(again).toEqual(first);
    expect(timeless(parseRecording(second))).toEqual(timeless(recording));
    expect([replay.unmatched, replay.unused]).toEqual([[], 0]);
  });

  test("cuts inside a character, and breaks off where the upstream did", async () => {
    upstream.script([{ splitAt: Array.from({ length: 40 }, (_, i) => 310 + i), text: ["ü".repeat(64)] }, { fault: { at: 2, how: "reset" } }]);
    let said = "";
    const text = await recorded(upstream.url, async (url) => {
      said = await textOf(post(url, { ...hello, stream: true, n: 1 }));
      await expect(textOf(post(url, { ...hello, stream: true }))).rejects.toThrow();
    });
    const { exchanges } = parseRecording(text);
    expect(exchanges.map(({ answer }) => answer.end)).toEqual(["done", "broken"]);
    expect(exchanges[0]?.answer.chunks.some(({ base64 }) => base64 !== undefined)).toBe(true);
    const replay = later(await replayUpstream({ text }));
    expect(await textOf(post(replay.url, { ...hello, stream: true, n: 1 }))).toBe(said);
    await expect(textOf(post(replay.url, { ...hello, stream: true }))).rejects.toThrow();
    expect([replay.unused, replay.unmatched]).toEqual([0, []]);
  });

  test("is one file of JSON lines with a version, for its owner only", async () => {
    const folder = mkdtempSync(join(tmpdir(), "quotaguard-recording-"));
    const file = join(folder, "openai.jsonl");
    opened.push({ close: async () => rmSync(folder, { recursive: true }) });
    const recorder = await recordUpstream({ target: upstream.url, file });
    for (let i = 0; i < 3; i += 1) await textOf(post(recorder.url));
    await expect.poll(() => recorder.count).toBe(3);
    await recorder.close();
    expect(readFileSync(file, "utf8")).toBe(recorder.text());
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const [head, ...lines] = recorder.text().trimEnd().split("\n");
    expect(JSON.parse(head ?? "")).toEqual({ quotaguardRecording: 1, target: upstream.url });
    expect(lines.map((line) => Object.keys(JSON.parse(line) as object))).toEqual(Array.from({ length: 3 }, () => ["request", "answer"]));
    expect((await (await post(later(await replayUpstream({ file })).url)).json()) as object).toMatchObject({ object: "chat.completion" });
  });

  test("of another format, or of something else, is refused by line", async () => {
    await expect(replayUpstream({ text: "hello" })).rejects.toThrow("line 1 of the recording is no JSON");
    await expect(replayUpstream({ text: "{}" })).rejects.toThrow("its first line must say quotaguardRecording");
    await expect(replayUpstream({ text: '{"quotaguardRecording":2}' })).rejects.toThrow("format 2 and this version reads 1");
    await expect(replayUpstream({ text: '{"quotaguardRecording":1}\n\n{"request":{}}' })).rejects.toThrow("line 3 of the recording is no exchange");
  });
});

describe("no secret is in it", () => {
  const CANARIES = {
    authorization: "Bearer sk-proj-canary0123456789abcdef",
    "x-api-key": "sk-ant-canary-0123456789",
    "x-goog-api-key": "AIzaCanary0123456789abcdefghijklmnop",
    cookie: "session=canary-cookie-1",
    "openai-organization": "org-canaryorg",
    "openai-project": "proj_canaryproject",
    "anthropic-organization-id": "canary-anthropic-org",
    "x-session-token": "canary-session-token",
    "x-my-own": "acme-canary-own-header",
  };
  const LISTED = "acme canary & partners?>";

  test("in headers, query, cookies, bodies on both sides, and across chunks", async () => {
    const leak = {
      key: "qg_canary0123456789",
      echoed: "Incorrect API key provided: sk-proj-canary0123456789abcdef. You are org-canaryaccount01.",
      jwt: "eyJcanary012345.eyJzdWIiOiIx.c2ln-canary",
      customer: LISTED,
      coded: Buffer.from(LISTED).toString("base64"),
      header: "Bearer canary-opaque-token-77",
    };
    upstream.script({
      status: 200,
      body: leak,
      headers: {
        "set-cookie": "__cf=canary-cookie-2; Path=/",
        "openai-organization": "org-canaryanswer",
        "x-usage-tokens": "17",
        "x-ratelimit-remaining-tokens": "4000",
      },
      splitAt: Array.from({ length: 60 }, (_, i) => (i + 1) * 5),
    });
    const said = `my key is sk-proj-canary0123456789abcdef, I am with ${LISTED}`;
    const path = `/v1/chat/completions?key=canary-query-1&api-version=2&note=${encodeURIComponent(LISTED)}`;
    let received = "";
    const text = await recorded(
      upstream.url,
      async (url) => (received = await textOf(post(url, { ...hello, messages: [{ role: "user", content: said }] }, { headers: CANARIES, path }))),
      [LISTED, "acme-canary-own-header"],
    );
    // The client has everything, and so had the upstream.
    expect(JSON.parse(received)).toEqual(leak);
    expect(String(upstream.log[0]?.body)).toContain(LISTED);
    expect(upstream.log[0]?.headers.authorization).toBe(upstream.digest("sk-proj-canary0123456789abcdef"));

    const { request, answer } = parseRecording(text).exchanges[0] ?? {};
    expect(request?.path).toMatch(/^\/v1\/chat\/completions\?key=\[redacted\]&api-version=2&note=\[redacted\*+\]$/);
    // What is no secret stays, and so does every boundary.
    expect(answer?.headers).toMatchObject({ "x-usage-tokens": "17", "x-ratelimit-remaining-tokens": "4000", "content-type": "application/json" });
    const whole = (answer?.chunks ?? []).map(({ text: part }) => part ?? "");
    expect(whole.length).toBeGreaterThan(40);
    // Chunks are shorter than a secret: what they say together is looked through as well.
    expect(leak.coded).toMatch(/[+/]/);
    for (const everything of [text, whole.join("")]) {
      expect(everything).not.toMatch(/canary/i);
      for (const part of leak.coded.match(/[A-Za-z0-9]{8,}/g) ?? []) expect(everything).not.toContain(part);
    }
    for (const part of whole.slice(0, -1)) expect(part).toHaveLength(5);
    expect(whole.join("")).toHaveLength(received.length);
    expect(JSON.parse(whole.join(""))).toMatchObject({
      echoed: expect.stringMatching(/^Incorrect API key provided: \[redacted\*+\]\. You are \[redacted\*+\]\.$/),
    });

    // The same request with the same secrets finds its answer.
    const replay = later(await replayUpstream({ text }, { redact: [LISTED, "acme-canary-own-header"] }));
    expect((await post(replay.url, { ...hello, messages: [{ role: "user", content: said }] }, { path })).status).toBe(200);
  });

  const WITHIN = "acme/canary+pa rt";

  test.each([
    ["behind a line break of JSON", String.raw`{"text":"key:\nAIzaCanary1234567890abcdefgh"}`],
    ["behind an escape of JSON", String.raw`{"text":"key\u003dsk-canary0123456789"}`],
    ["behind an escape of a URL", "note=it%20is%20gsk_canary0123456789"],
    ["behind a word for it", String.raw`{"text":"\tBearer canary-opaque-token"}`],
    ["in a member of its name", '{"access_token" : "canary \\" opaque","expires_in":5}'],
    ["in JSON inside of a text", String.raw`{"text":"{\"refresh_token\": \"1//0canary\"}"}`],
    ["in a member of an MCP server", '{"authorization":"canary","headers":{"X-Api-Key":"canary"}}'],
    ["in a form", "grant_type=refresh_token&client_secret=canary&refresh_token=1//0canary"],
    ["in a signed URL", "https://blobs.example/a?se=1&X-Goog-Signature=canary&sig=canary"],
    ["listed, with a slash that JSON escaped", JSON.stringify({ at: WITHIN }).replaceAll("/", String.raw`\/`)],
    ["listed, in a form", `note=${encodeURIComponent(WITHIN).replaceAll("%20", "+").toLowerCase()}`],
  ])("%s", (_where, text) => {
    const cleaned = redaction([WITHIN]).bytes(text);
    expect(cleaned).not.toMatch(/canary/i);
    expect(cleaned).toHaveLength(text.length);
  });

  test.each(["", "u", "us", "user:"])("listed, inside of something that was coded, behind '%s'", (before) => {
    const clean = redaction([WITHIN]);
    for (const coding of ["base64", "base64url"] as const) {
      const cleaned = clean.bytes(Buffer.from(`${before}${WITHIN};end`).toString(coding));
      expect(Buffer.from(cleaned.replaceAll(/[^\w+/-]/g, "A"), "base64").toString("latin1")).not.toMatch(/anary/);
      expect(cleaned).toContain("[redacted");
    }
  });

  test("a query may name more of them", () => {
    expect(redaction().path("/v1/x?X-Amz-Security-Token=canary&client_secret=canary&id_token=canary&limit=5")).toBe(
      "/v1/x?X-Amz-Security-Token=[redacted]&client_secret=[redacted]&id_token=[redacted]&limit=5",
    );
  });

  test("megabytes that begin like a key are no reason to give up", () => {
    const clean = redaction();
    for (const text of [`sk-${"a".repeat(8e6)}`, "eyJ".repeat(2e6)]) expect(clean.bytes(text)).toHaveLength(text.length);
  });

  test("ordinary words are left alone", () => {
    const clean = redaction(["zz"]);
    const ordinary = ["key-value stores", "an org-wide sketch", "the bearer of news", "skills and task_force", "total_tokens: 12"];
    const members = ['{"token":" Hello","max_tokens":5}', '{"signature":"EqQBCkYIBxgC"}', '{"secrets":"no"}', '{"name":"user_authentication"}'];
    for (const words of [...ordinary, ...members]) expect(clean.bytes(words)).toBe(words);
    expect(() => redaction([""])).toThrow("an empty text would be found everywhere");
  });
});

describe("a replay", () => {
  const two = async (): Promise<string> => {
    upstream.script([{ text: ["first"] }, { text: ["second"] }]);
    return recorded(upstream.url, async (url) => {
      await textOf(post(url, '{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5}'));
      await textOf(post(url, '{"temperature": 0.5, "messages":[{"content":"hi","role":"user"}],  "model":"m"}'));
    });
  };
  const same = { messages: [{ content: "hi", role: "user" }], model: "m", temperature: 0.5 };
  const contentOf = async (response: Promise<Response>): Promise<unknown> =>
    ((await (await response).json()) as { choices?: { message: { content: string } }[] }).choices?.[0]?.message.content;

  test("the n-th same request has the n-th answer, whatever the order of its keys", async () => {
    const replay = later(await replayUpstream({ text: await two() }));
    expect(replay.unused).toBe(2);
    expect([await contentOf(post(replay.url, same)), await contentOf(post(replay.url, same))]).toEqual(["first", "second"]);
    expect([replay.unused, replay.unmatched]).toEqual([0, []]);
    const third = await post(replay.url, same);
    expect(third.status).toBe(501);
    expect(await third.json()).toMatchObject({
      error: { code: "not_recorded", message: expect.stringContaining("more than the 2 times that it was recorded") },
    });
  });

  test("says what differs when a request is not in it", async () => {
    const replay = later(await replayUpstream({ text: await two() }));
    const ask = async (body: unknown, path?: string): Promise<string> => {
      const response = await post(replay.url, body, path === undefined ? {} : { path });
      expect(response.status).toBe(501);
      return ((await response.json()) as { error: { message: string } }).error.message;
    };
    expect(await ask({ ...same, temperature: 0.7 })).toBe(
      "replayUpstream: POST /v1/chat/completions is not in the recording with this body; nearest is line 2: body.temperature is 0.7, recorded 0.5",
    );
    expect(await ask({ ...same, messages: [{ role: "user", content: "ho" }], stream: true })).toContain(
      'body.messages[0].content is "ho", recorded "hi"; body.stream is true, recorded absent',
    );
    expect(await ask(same, "/v1/embeddings")).toContain("POST /v1/embeddings is not in the recording: it has POST /v1/chat/completions");
    expect(replay.unmatched).toHaveLength(3);
  });

  test("keeps the times too, when it is told to", async () => {
    const text = [
      '{"quotaguardRecording":1,"target":"http://x"}',
      '{"request":{"method":"POST","path":"/v1/chat/completions","headers":{},"body":{"n":1}},"answer":{"status":200,"headers":{"content-type":"text/plain"},"chunks":[{"afterMs":100,"text":"a"},{"afterMs":300,"text":"b"}],"end":"done"}}',
    ].join("\n");
    const clock = testClock();
    const replay = later(await replayUpstream({ text }, { timing: "recorded", clock }));
    const reader = ((await post(replay.url, { n: 1 })).body as ReadableStream<Uint8Array>).getReader();
    const pieces: string[] = [];
    const reading = (async () => {
      for (let read = await reader.read(); !read.done; read = await reader.read()) pieces.push(Buffer.from(read.value).toString());
    })();
    await expect.poll(() => clock.pending()).toBe(1);
    clock.advance(99);
    expect(clock.pending()).toBe(1);
    clock.advance(1);
    await expect.poll(() => pieces).toEqual(["a"]);
    await expect.poll(() => clock.pending()).toBe(1);
    clock.advance(200);
    await reading;
    expect(pieces).toEqual(["a", "b"]);
  });

  test("is a provider for a guard: the same bytes, the same bill", async () => {
    const through = async (baseUrl: string): Promise<{ readonly text: string; readonly rows: readonly unknown[] }> => {
      const options = { credentials: [{ name: "main", provider: "openai" as const, apiKey: "sk-canary-00000001", baseUrl }] };
      const guard = later(createGuard(options));
      await guard.ready();
      const call = guard.fetch();
      const body = JSON.stringify({ ...hello, stream: true });
      const text = await (await call("http://x/v1/chat/completions", { method: "POST", body })).text();
      await expectConserved({ guard, options });
      const rows = (await guard.ledger.list({})).map(({ state, usage, provenance }) => ({ state, usage, provenance }));
      return { text, rows };
    };
    let first: unknown;
    const text = await recorded(upstream.url, async (url) => (first = await through(url)));
    expect(text).not.toContain("sk-canary");
    const replay = later(await replayUpstream({ text }));
    expect(await through(replay.url)).toEqual(first);
    expect(replay.unmatched).toEqual([]);
  });
});

describe("a recorder", () => {
  const pages = async (handle: Parameters<typeof createServer>[1]): Promise<string> => {
    const server: Server = createServer(handle);
    return later(await listening(server)).url;
  };

  test("says what it did not record, and why", async () => {
    const target = await pages((request, response) => {
      if (request.url === "/gzip") response.writeHead(200, { "content-encoding": "gzip" }).end("xxxx");
      else response.end("x".repeat(300));
    });
    const recorder = later(await recordUpstream({ target, maxBodyBytes: 200 }));
    expect(await textOf(fetch(`${recorder.url}/large`))).toHaveLength(300);
    await fetch(`${recorder.url}/gzip`).catch(() => {});
    expect((await post(recorder.url, "y".repeat(201))).status).toBe(413);
    await expect.poll(() => recorder.skipped.length).toBe(3);
    expect([recorder.count, recorder.skipped.map(({ reason }) => reason).toSorted()]).toEqual([
      0,
      [
        "the answer is compressed (gzip), so no secret could be taken out",
        "the answer is larger than 200 bytes",
        "the request is larger than 200 bytes",
      ],
    ]);
    const full = later(await recordUpstream({ target, maxBytes: 100 }));
    await textOf(fetch(`${full.url}/a`));
    await expect.poll(() => full.skipped.map(({ reason }) => reason)).toEqual(["the recording is full; give recordUpstream() a larger maxBytes"]);
  });

  test("gives up a target that is silent, or not there", async () => {
    const clock = testClock();
    const target = await pages(() => {});
    const recorder = later(await recordUpstream({ target, timeoutMs: 5_000, clock }));
    const pending = post(recorder.url);
    await expect.poll(() => clock.pending()).toBe(1);
    clock.advance(5_000);
    expect([(await pending).status, recorder.skipped[0]?.reason]).toEqual([502, "the target was silent for 5000 ms"]);
    const nowhere = later(await recordUpstream({ target: "http://127.0.0.1:1" }));
    expect((await post(nowhere.url)).status).toBe(502);
    expect(nowhere.skipped[0]?.reason).toContain("ECONNREFUSED");
    await expect(recordUpstream({ target: "ftp://127.0.0.1" })).rejects.toThrow("expected a URL with http or https");
  });

  test("is left by a client: the target is left too, and nothing is recorded", async () => {
    upstream.script({ fault: { at: 2, how: "hang" } });
    const recorder = later(await recordUpstream({ target: upstream.url }));
    const leaving = new AbortController();
    const response = await fetch(`${recorder.url}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify({ ...hello, stream: true }),
      signal: leaving.signal,
    });
    await response.body?.getReader().read();
    leaving.abort();
    await upstream.log[0]?.ended;
    expect(upstream.log[0]?.end).toBe("client");
    await expect.poll(() => recorder.skipped).toEqual([{ path: "/v1/chat/completions", reason: "the client left before the answer was complete" }]);
  });
});
