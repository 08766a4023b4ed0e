// What providers say that a call used, from their documented objects to the ledger's row: each token is in one class, and is charged once.
import { readdirSync, readFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, usage, type GuardOptions, type QuotaGuard, type Usage } from "quotaguard";
import type { FakeUsage } from "../../src/testing/fake-answers.ts";
import { TOKEN_CLASSES } from "../../src/core/usage.ts";
import { chat, testGateway, type TestGateway } from "../helpers/app.ts";

type Body = Readonly<Record<string, unknown>>;

interface Case {
  readonly name: string;
  /** A whole response, or the events of a stream. */
  readonly bodies: readonly [Body, ...Body[]];
  readonly usage: Partial<Usage>;
  /** All tokens, as the provider sums them up. */
  readonly total: number;
  readonly nanoUsd: number;
}
interface Fixture {
  readonly price: Body;
  readonly cases: readonly Case[];
}

const FOLDER = new URL("../fixtures/usage/", import.meta.url);
const fixture = (file: string): Fixture => JSON.parse(readFileSync(new URL(file, FOLDER), "utf8")) as Fixture;
const files = readdirSync(FOLDER).map((file) => [file.replace(/\.json$/, ""), fixture(file)] as const);
const ALL = files.flatMap(([provider, { price, cases }]) => cases.map((each) => ({ ...each, provider, price })));

const DAY: NonNullable<GuardOptions["limits"]>[number] = { name: "day", scope: "user", unit: "usd", window: { limit: 10, per: "day" } };
const classesOf = (used: Usage | null | undefined): Partial<Usage> =>
  Object.fromEntries(TOKEN_CLASSES.flatMap((name) => (used?.[name] ? [[name, used[name]]] : [])));
const sumOf = (used: Partial<Usage>): number => TOKEN_CLASSES.reduce((sum, name) => sum + (used[name] ?? 0), 0);

let guard: QuotaGuard | undefined;
let gateway: TestGateway | undefined;
afterEach(async () => {
  await guard?.close();
  await gateway?.close();
  guard = gateway = undefined;
});

test("the fixtures cover what is said to be read", () => {
  expect(files.map(([provider]) => provider)).toEqual(["anthropic-messages", "gemini", "openai-chat", "openai-responses"]);
  expect(new Set(ALL.flatMap((each) => Object.keys(each.usage)))).toEqual(new Set(TOKEN_CLASSES));
});

describe("by hand", () => {
  test.each(ALL)("$provider: $name", async ({ bodies, usage: classes, total, nanoUsd, price }) => {
    expect(sumOf(classes)).toBe(total);
    if (bodies.length === 1) expect(classesOf(usage(bodies[0]))).toEqual(classes);
    guard = createGuard({ limits: [DAY], models: ["gpt-4o", "gpt-5", "claude-sonnet-4-5", "gemini-2.5-flash"].map((name) => ({ name, price })) });
    await guard.ready();
    await guard.run({ scopes: { user: "alice" }, cost: 1 }, (quota) => {
      for (const body of bodies) quota.meter(body);
      // Whoever says the same once more is not charged once more.
      quota.meter(bodies.at(-1) as Body);
    });
    const [row] = await guard.ledger.list({});
    expect(classesOf(row?.usage)).toEqual(classes);
    expect(row).toMatchObject({ state: "settled", rawNanoUsd: nanoUsd, billedNanoUsd: nanoUsd, provenance: "exact" });
    const [day] = await guard.remaining({ user: "alice" });
    expect(day?.used).toBeCloseTo(nanoUsd / 1e9, 12);
  });
});

test("images that are billed one by one are held, and charged as made", async () => {
  guard = createGuard({ limits: [DAY], models: [{ name: "painter", price: { perImage: 0.04 } }] });
  await guard.ready();
  await guard.run({ scopes: { user: "alice" }, cost: { model: "painter", input: "a cat", maxOutputTokens: 0, images: 3 } }, async (quota) => {
    expect(await (guard as QuotaGuard).remaining({ user: "alice" })).toMatchObject([{ held: 0.12 }]);
    quota.meter({ model: "painter", images: 2 });
  });
  expect(await guard.remaining({ user: "alice" })).toMatchObject([{ used: 0.08, held: 0 }]);
  expect(await guard.ledger.list({})).toMatchObject([{ usage: { images: 2 }, rawNanoUsd: 80_000_000 }]);
});

describe("through the gateway", () => {
  const { price, cases } = fixture("openai-chat.json");
  const asked = cases.flatMap((each) => [true, false].map((stream) => ({ ...each, stream })));

  test.each(asked)("$name, streamed: $stream", async ({ bodies, usage: classes, nanoUsd, stream }) => {
    const opened = await testGateway({ models: [{ name: "gpt-4o", price: { ...price } }], limits: [DAY] });
    gateway = opened;
    const figures = bodies[0].usage as FakeUsage & Body;
    opened.upstream.script({ usage: figures });
    const options = stream ? { stream, stream_options: { include_usage: true } } : {};
    const answer = await chat(opened.url, { model: "gpt-4o", messages: [{ role: "user", content: "hi" }], max_tokens: 500, ...options });
    expect(await answer.text()).toContain(JSON.stringify(figures));
    await expect.poll(() => opened.guard.admin.health().openRequests).toBe(0);
    const row = await opened.guard.ledger.get(answer.headers.get("x-request-id") as string);
    expect(classesOf(row?.usage)).toEqual(classes);
    expect(row).toMatchObject({ state: "settled", rawNanoUsd: nanoUsd, billedNanoUsd: nanoUsd, provenance: "exact", usage: { raw: [figures] } });
    if (!stream) expect(answer.headers.get("x-quotaguard-cost-usd")).toBe((nanoUsd / 1e9).toFixed(9));
    const [day] = await opened.guard.remaining({ user: "alice" });
    expect(day?.used).toBeCloseTo(nanoUsd / 1e9, 12);
  });

  test("holds audio at its own price where the request has some", async () => {
    const opened = await testGateway({ models: [{ name: "gpt-4o", price: { ...price } }], limits: [DAY] });
    gateway = opened;
    const held = async (content: unknown): Promise<number> => {
      const answer = await chat(opened.url, { model: "gpt-4o", messages: [{ role: "user", content }], max_tokens: 1 });
      await answer.text();
      await expect.poll(() => opened.guard.admin.health().openRequests).toBe(0);
      return (await opened.guard.ledger.get(answer.headers.get("x-request-id") as string))?.held.usd as number;
    };
    const text = "x".repeat(4_000);
    const [plain, spoken] = [
      await held(text),
      await held([
        { type: "text", text },
        { type: "input_audio", input_audio: { data: "", format: "wav" } },
      ]),
    ];
    // Output is held at the price of audio both times.
    expect((spoken - 80_000) / (plain - 80_000)).toBeCloseTo(40 / 2.5, 0);
  });
});
