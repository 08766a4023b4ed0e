// Any official client, a guard, and a provider of any dialect behind it: each must see what it sees straight at a provider of its own.
import express from "express";
import { createGuard, type GuardOptions, type PluginHost, type QuotaGuard } from "quotaguard";
import { expectConserved, fakeUpstream, recordingStore, type FakeReply, type FakeUpstream } from "quotaguard/testing";
import { afterEach, describe, expect, test } from "vitest";
import { KEY, listen, UPSTREAM_KEY } from "../helpers/app.ts";
import { CLIENTS, END, heard, IMAGE, listening, wire, type Client, type ClientName, type Question, type Reach } from "./dialects-clients.ts";

/** Providers of each dialect. OpenAI gets Responses as they are, and everything else as chat completions: another one offers nothing but Responses. */
const PROVIDERS = {
  compatible: { id: "openai-compatible", model: "llama-3.3-70b", path: "/v1/chat/completions" },
  openai: { id: "openai", model: "gpt-4o-mini", path: "/v1/chat/completions" },
  responses: { id: "only-responses", model: "gpt-5", path: "/v1/responses" },
  anthropic: { id: "anthropic", model: "claude-sonnet-5", path: "/v1/messages" },
  gemini: { id: "gemini", model: "gemini-2.5-flash", path: "/v1beta/models/gemini-2.5-flash:generateContent" },
  kiro: { id: "kiro", model: "claude-sonnet-4.5", path: "/generateAssistantResponse" },
} as const;
type ProviderName = keyof typeof PROVIDERS;

/** A row of Codex's family without its rules; like it, it answers in streams only. */
const onlyResponses = {
  name: "responses",
  setup: ({ provider }: PluginHost): void =>
    provider({
      id: PROVIDERS.responses.id,
      extends: "codex",
      paths: { chat: PROVIDERS.responses.path },
      adapt: (body) => ({ ...body, stream: true }),
    }),
};

type How = "straight" | "over HTTP" | "in process";

/** One token in or out is a ten-thousandth of a dollar. */
const PRICE = { inputPerMtok: 100, outputPerMtok: 100 };

interface Host {
  readonly upstream: FakeUpstream;
  readonly client: Client;
  readonly ask: (question?: Partial<Question>) => ReturnType<Client["ask"]>;
  /** Everything was charged, once: what the upstream bills is what alice has used. Without a guard nothing is. */
  conserved(): Promise<void>;
}

const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  heard.length = 0;
  wire.length = 0;
  for (const end of endings.splice(0).toReversed()) await end();
});

const refuse = (input: string | URL | Request): never => {
  throw new Error(`the guard let a request to the client's own host pass: ${String(input instanceof Request ? input.url : input)}`);
};

async function reachOf(guard: QuotaGuard, how: How): Promise<Reach> {
  // The clients' own hosts are not ours to ask.
  if (how === "in process") return { apiKey: "in-process", fetch: listening(guard.fetch({ scopes: { user: "alice" }, fetch: refuse })) };
  const app = express();
  app.use("/llm", guard.handler());
  const { url, close } = await listen(app);
  endings.push(close);
  return { apiKey: KEY, mount: `${url}/llm`, fetch: listening(fetch) };
}

/** Without a guard: what the client itself makes of a provider of its own dialect. */
function straight(from: ClientName, to: ProviderName, upstream: FakeUpstream): Host {
  const client = CLIENTS[from]({ apiKey: UPSTREAM_KEY, mount: upstream.url, fetch: listening(fetch) });
  const ask: Host["ask"] = (question) => client.ask({ model: PROVIDERS[to].model, stream: false, ...question });
  return { upstream, client, ask, conserved: () => Promise.resolve() };
}

async function host(from: ClientName, to: ProviderName, how: How): Promise<Host> {
  const upstream = await fakeUpstream({ keys: [UPSTREAM_KEY] });
  endings.push(() => upstream.close());
  if (how === "straight") return straight(from, to, upstream);
  const { model, id } = PROVIDERS[to];
  const store = recordingStore();
  const options: GuardOptions = {
    store,
    auth: { keys: [{ name: "alice", key: KEY, scopes: { user: "alice" } }] },
    plugins: to === "responses" ? [onlyResponses] : [],
    credentials: [{ name: "main", provider: id, apiKey: UPSTREAM_KEY, baseUrl: upstream.url, models: [model] }],
    models: [{ name: model, price: PRICE }],
    limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 5, per: "day" } }],
    resilience: { maxRetries: 0 },
  };
  const guard = createGuard(options);
  endings.push(() => guard.close());
  await guard.ready();
  const client = CLIENTS[from](await reachOf(guard, how));
  return {
    upstream,
    client,
    ask: (question) => client.ask({ model, stream: false, ...question }),
    async conserved() {
      while (guard.admin.health().openRequests > 0 || guard.admin.health().waitingSettlements > 0) await new Promise(setImmediate);
      await expectConserved({ guard, store, upstreams: [upstream], options });
      const [day] = await guard.remaining({ user: "alice" });
      const { inputTokens, outputTokens } = upstream.totals();
      expect([day?.used, day?.held]).toEqual([(inputTokens + outputTokens) / 10_000, 0]);
    },
  };
}

/** Clients whose API counts tokens. */
const COUNTING: readonly ClientName[] = ["anthropic", "gemini"];

/** What an SDK throws where a status was told before the first byte. A provider's 5xx may come as any. */
const statusOf = (status: number): unknown => (status < 500 ? status : expect.toSatisfy((seen: number) => seen >= 500 && seen < 600));

const pathFor = (from: ClientName, to: ProviderName): string => (from === "responses" && to === "openai" ? "/v1/responses" : PROVIDERS[to].path);

/** The rows of the matrix that begin with one client. */
export function dialectMatrix(from: ClientName): void {
  const names = Object.keys(PROVIDERS) as ProviderName[];
  const rows = names.flatMap((to) => (["over HTTP", "in process"] as const).map((how) => [to, how] as const));

  describe.each<readonly [ProviderName, How]>([[from, "straight"], ...rows])(`the official client of ${from} at a provider of %s, %s`, (to, how) => {
    const begin = async (reply?: FakeReply | readonly FakeReply[]): Promise<Host> => {
      const at = await host(from, to, how);
      if (reply) at.upstream.script(reply);
      return at;
    };

    test("chats, in the words of both", async () => {
      const { ask, client, upstream, conserved } = await begin();
      const { text, calls, stop, usage } = await ask();
      expect({ text, calls, stop, usage }).toEqual({ text: "You said: one two three", calls: [], stop: client.stops[0], usage: [5, 5] });
      expect(upstream.log.map((entry) => entry.call)).toEqual([
        { model: PROVIDERS[to].model, stream: (to === "responses" || to === "kiro") && how !== "straight" },
      ]);
      if (how !== "straight") expect(upstream.log[0]?.path).toBe(pathFor(from, to));
      await conserved();
    });

    test("streams, piece by piece, with the same figures", async () => {
      const { ask, client, upstream, conserved } = await begin();
      const { text, stop, usage } = await ask({ stream: true });
      expect({ text, stop, usage }).toEqual({ text: "You said: one two three", stop: client.stops[0], usage: [5, 5] });
      expect(heard.filter((piece) => piece !== "")).toEqual(["You", " said:", " one", " two", " three"]);
      expect(upstream.log[0]?.call?.stream).toBe(true);
      expect(wire.join("")).toMatch(END);
      await conserved();
    });

    test.each([false, true])("a round trip of tools; streamed: %s", async (stream) => {
      const { ask, client, conserved } = await begin();
      const first = await ask({ stream, offersTool: true });
      expect([first.calls, first.stop]).toEqual([[{ name: "weather", input: { city: "Oslo" } }], client.stops[2]]);
      const second = await first.answer("rain today");
      expect([second.text, second.calls, second.stop]).toEqual(["You said: rain today", [], client.stops[0]]);
      await conserved();
    });

    test.each([false, true])("text ahead of two calls; streamed: %s", async (stream) => {
      const { ask, conserved } = await begin([
        {
          text: ["Let ", "me see."],
          toolCall: [
            { name: "weather", arguments: ['{"city":', '"Oslo"}'] },
            { name: "weather", arguments: ['{"city":"Rome"}'] },
          ],
        },
      ]);
      const first = await ask({ stream, offersTool: true });
      expect(first.text).toBe("Let me see.");
      expect(first.calls.map(({ input }) => input)).toEqual([{ city: "Oslo" }, { city: "Rome" }]);
      expect((await first.answer("rain today")).text).toContain("rain today");
      await conserved();
    });

    test("an image arrives, byte for byte", async () => {
      const { ask, upstream, conserved } = await begin();
      expect((await ask({ showsImage: true })).text).toBe("You said: one two three");
      expect(String(upstream.log[0]?.body)).toContain(IMAGE.data);
      await conserved();
    });

    test.each([false, true])("the cap is the provider's; streamed: %s", async (stream) => {
      const { ask, client, conserved } = await begin();
      const { text, stop, usage } = await ask({ stream, maxTokens: 16 });
      expect([text, stop, usage]).toEqual(["You said: one two three", client.stops[0], [5, 5]]);
      const cut = await begin({ text: Array.from({ length: 40 }, () => "x ") });
      const short = await cut.ask({ stream, maxTokens: 16 });
      expect([short.text.trim().split(" ").length, short.stop, short.usage]).toEqual([16, cut.client.stops[1], [5, 16]]);
      await conserved();
      await cut.conserved();
    });

    test.each([false, true])("thoughts and cached tokens are counted; streamed: %s", async (stream) => {
      const { ask, conserved } = await begin({ reasoning: ["hm ", "so"], signature: "c2ln", text: ["yes"], cacheReadTokens: 2 });
      const { text, usage } = await ask({ stream });
      expect([text, usage]).toEqual(["yes", [5, 3]]);
      await conserved();
    });

    test.each(COUNTING.filter((name) => name === from))("%s counts tokens for nothing: at the provider, or with us where it cannot", async () => {
      const { client, upstream, conserved } = await begin();
      const counted = await client.count?.(PROVIDERS[to].model);
      if (from === to) expect(counted).toBe(3);
      else expect(counted).toBeGreaterThanOrEqual(3);
      expect(upstream.totals()).toMatchObject({ inputTokens: 0, outputTokens: 0 });
      await conserved();
    });

    describe.each([400, 401, 429, 500])("refused with %i", (status) => {
      test.each([false, true])("before the first byte, as this client knows it; streamed: %s", async (stream) => {
        const { ask, client, upstream, conserved } = await begin({ status });
        const error: unknown = await ask({ stream }).catch((caught: unknown) => caught);
        expect(error).toBeInstanceOf(client.errorType);
        expect(error).toMatchObject({ status: statusOf(status) });
        expect(String(error)).not.toContain(UPSTREAM_KEY);
        expect(upstream.log).toHaveLength(1);
        await conserved();
      });
    });

    test.each(["error", "close"] as const)("in mid-stream, by %s: what was said arrives, and then an error, never a forged end", async (fault) => {
      const pieces = Array.from({ length: 8 }, (_, i) => `w${i} `);
      const { ask, upstream } = await begin({ text: pieces, fault: { at: 7, how: fault } });
      await expect(ask({ stream: true })).rejects.toThrow();
      expect(heard.join("")).toMatch(/^w0 w1 /);
      expect(wire.join("")).not.toMatch(END);
      await upstream.log[0]?.ended;
      expect(upstream.log[0]?.end).toBe("upstream");
    });
  });
}
