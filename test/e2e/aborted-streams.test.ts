// Free tokens for those who hang up? A thousand clients leave when nine tenths of their answer have come; what is charged is what the provider bills.
import { randomUUID } from "node:crypto";
import { Agent, request } from "node:http";
import { decode, encode } from "gpt-tokenizer/encoding/o200k_base";
import { afterEach, describe, expect, test } from "vitest";
import { memoryStore, type GuardOptions, type LedgerRow, type Store } from "quotaguard";
import { redisStore } from "quotaguard/stores/redis";
import { expectConserved, pacer, type FakeReply, type FakeUpstream, type Pacer } from "quotaguard/testing";
import { exactTokenizer } from "../../src/limits/tokenizer.ts";
import { gatewayOptions, testGateway, type TestGateway } from "../helpers/app.ts";
import { testServer } from "../setup/test-server.ts";
import { closeLater, endAccounts, MODEL, PATIENTLY, quiet } from "./accounts-kit.ts";

const redis = await testServer("redis");
const exact = await exactTokenizer();

afterEach(endAccounts);

const STREAMS = 1_000;
const AT_ONCE = 50;
const USERS = 10;
const TEAMS = 2;
const CAPACITY = 1_000_000_000;
/** Nano-USD per token are these times a thousand. */
const PRICE = { inputPerMtok: 3, outputPerMtok: 15 };
/** Of ninety thousand events a machine that runs many tests at once carries some thousand a second. */
const PATIENCE_MS = 60_000;
/** What may be on its way when somebody leaves, and how well we count ourselves. */
const LEAST = 0.98;
const MOST = 1.02;

const PROSE = `The harbour master kept two ledgers. In the first he wrote what every captain had promised to pay before the ship was loaded; in the second,
what the captain really owed once the cargo had been weighed. "A promise," he used to say, "is only worth something if you hold the money while you're
making it." Der Hausmeister hatte zwei Schlüsselbunde: einen für die Wohnungen und einen für den Keller. Смотритель маяка каждое утро записывал в журнал
погоду, хотя никто этого журнала не читал.
\`\`\`ts
const rows = await this.#db.selectFrom("invoices").selectAll().where("customer_id", "=", customerId).execute();
return rows.map((row) => ({ ...row, total: row.net_cents + row.tax_cents, isOverdue: true }));
\`\`\`
| Region | Before | After |\n|--------|-------:|------:|\n| eu-west | 120 ms | 84 ms |\n| us-east | 95 ms | 71 ms |\n`;

/** The text as a provider streams it: some tokens at a time, never half a character. */
function pieces(text: string, most: number): readonly string[] {
  const tokens = encode(text);
  const found: string[] = [];
  let open: number[] = [];
  for (const [index, token] of tokens.entries()) {
    open.push(token);
    const piece = decode(open);
    if (open.length < 1 + (index % most) || piece.includes("\ufffd")) continue;
    found.push(piece);
    open = [];
  }
  if (open.length > 0) found.push(decode(open));
  return found;
}

/** How a provider tells its usage, by turns. None of it has told all when the client leaves. */
const WAYS: readonly ((text: readonly string[]) => FakeReply)[] = [
  (text) => ({ text }),
  (text) => ({ text, usage: "missing" }),
  (text) => ({ text, usage: "cumulative" }),
  (text) => ({ text: text.slice(30), reasoning: text.slice(0, 30) }),
  (text) => ({ toolCall: { name: "note", arguments: text } }),
];

const scopesOf = (index: number) => ({ user: `u${index % USERS}`, team: `t${index % TEAMS}` });

function options(upstream: FakeUpstream, store: Store, tokenizer: "exact" | "fast"): GuardOptions {
  const tokens = { unit: "tokens", bucket: { capacity: CAPACITY, refillPerSec: 0 } } as const;
  return gatewayOptions(upstream, {
    store,
    auth: (key) => (key === null ? null : { name: key, scopes: scopesOf(Number(key.slice(7))) }),
    models: [{ name: MODEL, price: PRICE, maxOutputTokens: 2_000 }],
    estimate: { tokenizer },
    limits: [
      { name: "user-tokens", scope: "user", ...tokens },
      { name: "team-tokens", scope: "team", ...tokens },
      { name: "all-tokens", scope: "global", ...tokens },
      { name: "user-usd", scope: "user", unit: "usd", window: { limit: 1_000_000, per: "month" } },
    ],
  });
}

const PROMPT = `${PROSE.slice(0, 350)} Go on with this story, request `;
const numberIn = (body: unknown): number =>
  Number(/request (\d+)$/.exec((body as { messages: { content: string }[] }).messages[0]?.content ?? "")?.[1]);

/** Takes so many events of a stream, each of them let out when the ones before have come, and hangs up while the provider goes on. */
function leave({ url }: TestGateway, agent: Agent, index: number, events: Pacer, after: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const body = JSON.stringify({ model: MODEL, stream: true, messages: [{ role: "user", content: PROMPT + index }] });
  const headers = { authorization: `Bearer client-${index}`, "content-type": "application/json", "x-quotaguard-tag": String(index) };
  const asking = request(`${url}/llm/v1/chat/completions`, { method: "POST", agent, headers }, (response) => {
    let seen = 0;
    let allowed = 0;
    const more = (): void => {
      const step = Math.min(20, after - allowed);
      allowed += step;
      events.step(step);
    };
    response.setEncoding("utf8").on("data", (text: string) => {
      seen += text.split("\n\n").length - 1;
      if (seen >= after) {
        asking.destroy();
        // It writes the next piece before it can know.
        events.step();
        resolve(response.statusCode ?? 0);
      } else if (seen >= allowed) more();
    });
    response.on("error", () => undefined);
    response.on("end", () => reject(new Error(`the answer ended: ${response.statusCode}`)));
  });
  asking.on("error", reject);
  asking.end(body);
  events.step();
  return promise;
}

interface Bill {
  tokens: number;
  nanoUsd: number;
}

const costOf = (inputTokens: number, outputTokens: number): number => (inputTokens * PRICE.inputPerMtok + outputTokens * PRICE.outputPerMtok) * 1_000;

function sums<T>(each: Iterable<T>, of: (one: T) => readonly [names: readonly string[], input: number, output: number]): Map<string, Bill> {
  const found = new Map<string, Bill>();
  for (const one of each) {
    const [names, input, output] = of(one);
    for (const name of names) {
      const bill = found.get(name) ?? { tokens: 0, nanoUsd: 0 };
      found.set(name, { tokens: bill.tokens + input + output, nanoUsd: bill.nanoUsd + costOf(input, output) });
    }
  }
  return found;
}

const namesOf = ({ user, team }: { readonly user?: string; readonly team?: string }, index: number): string[] => [
  "all",
  `user ${user}`,
  `team ${team}`,
  `way ${index % WAYS.length}`,
];

async function left(store: Store, tokenizer: "exact" | "fast", most: number, streams: number) {
  const text = pieces(PROSE, most);
  const countOf = new Map(text.map((piece) => [piece, exact(piece)]));
  let given: GuardOptions = {};
  const gateway = closeLater(await testGateway((upstream) => (given = options(upstream, store, tokenizer))));
  const { upstream, guard } = gateway;
  const paces = new Map<number, Pacer>();
  upstream.script(({ body }) => {
    const index = numberIn(body);
    const reply = (WAYS[index % WAYS.length] as (typeof WAYS)[number])(text);
    return { ...reply, countTokens: (piece) => countOf.get(piece) ?? exact(piece), pacer: paces.get(index) as Pacer };
  });
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  closeLater({ close: async () => agent.destroy() });
  let next = 0;
  async function client(): Promise<void> {
    for (let index = next++; index < streams; index = next++) {
      const events = pacer();
      paces.set(index, events);
      expect(await leave(gateway, agent, index, events, Math.floor(0.9 * text.length))).toBe(200);
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, client));
  await Promise.all(upstream.log.map(({ ended }) => ended));
  await quiet(guard);
  await expect.poll(() => guard.admin.health().waitingSettlements, PATIENTLY).toBe(0);
  await expectConserved({ guard, upstreams: [upstream], options: given });

  const rows: LedgerRow[] = [];
  for await (const page of guard.ledger.scan(0)) rows.push(...page);
  const billed = sums(upstream.log, ({ body, billed: { inputTokens, outputTokens } }) => {
    const index = numberIn(JSON.parse(String(body)));
    return [namesOf(scopesOf(index), index), inputTokens, outputTokens];
  });
  const settled = sums(rows, (row) => {
    const { inputTokens = 0, outputTokens = 0, reasoningTokens = 0 } = row.usage ?? {};
    return [namesOf(row.scopes, Number(row.tag)), inputTokens, outputTokens + reasoningTokens];
  });
  return { gateway, rows, billed, settled, events: text.length };
}

const STORES: readonly (readonly [name: string, isThere: boolean, store: () => Store])[] = [
  ["memory", true, memoryStore],
  ["Redis", redis !== undefined, () => closeLater(redisStore(redis as string, { partition: randomUUID() }) as Store & { close(): Promise<unknown> })],
];

/** Those for whom what is charged is not what is billed. */
const unfair = (settled: ReadonlyMap<string, Bill>, billed: ReadonlyMap<string, Bill>, most: number): readonly string[] =>
  [...billed].flatMap(([name, bill]) =>
    (["tokens", "nanoUsd"] as const).flatMap((unit) => {
      const share = (settled.get(name)?.[unit] ?? 0) / bill[unit];
      return share >= LEAST && share <= most ? [] : [`${name}: ${share.toFixed(4)} of the ${unit}`];
    }),
  );

describe.each(STORES.filter(([, isThere]) => isThere))("clients that hang up at nine tenths, with their counters in %s", (_name, _isThere, store) => {
  test(
    "are charged what the provider bills, each, each team and all, in tokens and in money",
    async () => {
      const { gateway, rows, settled, billed } = await left(store(), "exact", 4, STREAMS);
      expect(gateway.upstream.log).toHaveLength(STREAMS);
      expect(new Set(gateway.upstream.log.map(({ end }) => end))).toEqual(new Set(["client"]));
      expect(billed.size).toBe(1 + USERS + TEAMS + WAYS.length);
      expect(unfair(settled, billed, MOST)).toEqual([]);
      // Each of them says that nobody told us, and why.
      expect(rows).toHaveLength(STREAMS);
      expect(new Set(rows.map(({ state, provenance, code, status }) => [state, provenance, code, status].join(" ")))).toEqual(
        new Set(["settled counted client_closed 200"]),
      );
      // The counters say what the rows say.
      for (let user = 0; user < USERS; user += 1) {
        const { tokens } = await gateway.guard.admin.bucket({ scope: "user", id: `u${user}` });
        expect(CAPACITY - tokens).toBe(settled.get(`user u${user}`)?.tokens);
        const [usd] = (await gateway.guard.remaining({ user: `u${user}` })).filter(({ name }) => name === "user-usd");
        expect(Math.round((usd?.used ?? 0) * 1e9)).toBe(settled.get(`user u${user}`)?.nanoUsd);
      }
      for (let team = 0; team < TEAMS; team += 1) {
        const { tokens } = await gateway.guard.admin.bucket({ scope: "team", id: `t${team}` });
        expect(CAPACITY - tokens).toBe(settled.get(`team t${team}`)?.tokens);
      }
      const { tokens } = await gateway.guard.admin.bucket({ scope: "global" });
      expect(CAPACITY - tokens).toBe(settled.get("all")?.tokens);
    },
    PATIENCE_MS,
  );
});

test.each([1, 4])("by the fast tokenizer nobody is charged less than is billed either, with up to %i tokens in a chunk", async (most) => {
  const { settled, billed } = await left(memoryStore(), "fast", most, 100);
  // Its own bounds, see test/limits/tokenizer.test.ts.
  expect(unfair(settled, billed, 1.25)).toEqual([]);
});
