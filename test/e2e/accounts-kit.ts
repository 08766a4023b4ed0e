// Several provider accounts, each an upstream of its own, behind one gateway or more.
import type { GuardOptions, QuotaGuard } from "quotaguard";
import { expect } from "vitest";
import { fakeUpstream, testClock, type FakeReply, type FakeRequest, type FakeUpstream, type TestClock } from "quotaguard/testing";
import type { CredentialView, HealthView } from "../../src/core/admin.ts";
import { systemClock } from "../../src/core/time.ts";
import { chat, testGateway, type TestGateway } from "../helpers/app.ts";
import { folder } from "../helpers/child.ts";

export const MODEL = "gpt-4o-mini";
export const ADMIN = "admin-key-for-tests-0001";
export const keyOf = (credential: string): string => `sk-upstream-secret-of-${credential}`;

/** A chat without messages is expected to take 7 tokens of input; output is what it asks for. */
export const INPUT_TOKENS = 7;
export const asking = (outputTokens: number): Record<string, unknown> => ({ messages: [], max_tokens: outputTokens });
export const billing = (outputTokens: number, inputTokens = INPUT_TOKENS): FakeReply => ({
  usage: { prompt_tokens: inputTokens, completion_tokens: outputTokens, total_tokens: inputTokens + outputTokens },
});

type CredentialInput = NonNullable<GuardOptions["credentials"]>[number];
export type AccountInput = Partial<CredentialInput> & { readonly name: string };

/** The same answer for all · one each in turn, then the default · a function; undefined = the default. */
type Answering = FakeReply | readonly FakeReply[] | ((request: FakeRequest) => FakeReply | undefined | Promise<FakeReply | undefined>);

export interface Reply {
  readonly status: number;
  /** Our own error code, or the provider's. */
  readonly code: string | null;
  readonly text: string;
  readonly headers: Headers;
  /** Seconds. */
  readonly retryAfter: number | null;
}

export interface Accounts {
  readonly clock: TestClock;
  /** The gateway that is asked. */
  readonly gateway: TestGateway;
  readonly guard: QuotaGuard;
  /** Each account's provider, by credential. */
  readonly providers: Readonly<Record<string, FakeUpstream>>;
  /** Which accounts were asked for an answer, in order. */
  asked(): string;
  /** How often each account was asked for an answer. */
  counts(): Readonly<Record<string, number>>;
  forget(): void;
  /** What an account answers from now on. */
  answer(credential: string, answering: Answering): void;
  /** The models that an account lists from now on, or what it says instead. */
  list(credential: string, models: readonly string[] | FakeReply): void;
  /** How often an account was asked for its models. */
  listed(credential: string): number;
  /** A chat completion, read to its end. */
  ask(body?: Record<string, unknown>, init?: Parameters<typeof chat>[2] & { readonly of?: TestGateway }): Promise<Reply>;
  /** Several, one after the other; which accounts they were sent to. */
  several(count: number, body?: Record<string, unknown>): Promise<string>;
  credential(name: string): CredentialView;
  health(): HealthView;
  manage(method: string, path: string): Promise<{ readonly status: number; readonly body: Record<string, unknown> }>;
  /** A metric's value by its labels; `{}` = none. */
  metric(name: string): Promise<Readonly<Record<string, number>>>;
  /** Another gateway in front of the same accounts, with the same options. */
  another(more?: GuardOptions): Promise<TestGateway>;
  /** Ends the gateway and starts another with the same options. */
  restart(): Promise<void>;
}

const opened: { close(): Promise<unknown> }[] = [];

/** Closes it with the test. */
export function closeLater<T extends { close(): Promise<unknown> }>(each: T): T {
  opened.push(each);
  return each;
}

/** Closes everything that the test opened, last in, first out. */
export async function endAccounts(): Promise<void> {
  for (const each of opened.splice(0).toReversed()) await each.close();
}

/** A path for a database that lives as long as the test. */
export function databasePath(): string {
  const place = folder();
  closeLater({ close: async () => place.remove() });
  return `${place.path}/quota.db`;
}

/** A provider that is closed with the test. */
export async function provider(...options: Parameters<typeof fakeUpstream>): Promise<FakeUpstream> {
  return closeLater(await fakeUpstream(...options));
}

/** A test's clock that does not hold up what only takes a moment: the pause before a retry, the write of a batch. */
export function movedClock(): TestClock {
  const clock = testClock();
  return { ...clock, timer: (delayMs, fn) => (delayMs <= 50 ? systemClock.timer(0, fn) : clock.timer(delayMs, fn)) };
}

/** For `expect.poll`: machines that run many tests at once are slow. */
export const PATIENTLY = { timeout: 10_000 } as const;

/** Everything asked so far is over, and settled. */
export async function quiet(guard: QuotaGuard): Promise<void> {
  await expect.poll(() => guard.admin.health().openRequests, PATIENTLY).toBe(0);
}

export async function replyOf(pending: Promise<Response>): Promise<Reply> {
  const response = await pending;
  const text = await response.text();
  let code: string | null = null;
  try {
    code = (JSON.parse(text) as { error?: { code?: string | null } }).error?.code ?? null;
  } catch {
    // A stream, or nothing at all.
  }
  const retryAfter = response.headers.get("retry-after");
  return { status: response.status, code, text, headers: response.headers, retryAfter: retryAfter === null ? null : Number(retryAfter) };
}

const listedModel = (id: string): Record<string, unknown> => ({ id, object: "model", created: 1_700_000_000, owned_by: "the-provider" });

/** Starts a provider for each account and a gateway in front of them. Credentials come in the order given; a text is only a name. */
export async function accounts(given: readonly (string | AccountInput)[], more: GuardOptions = {}, clock = movedClock()): Promise<Accounts> {
  const inputs = given.map((each): AccountInput => (typeof each === "string" ? { name: each } : each));
  const names = inputs.map(({ name }) => name);
  const answers = new Map<string, Answering>();
  const lists = new Map<string, FakeReply>();
  const turns = new Map<string, number>();
  let asked: string[] = [];

  const providers: Record<string, FakeUpstream> = {};
  for (const name of names) {
    const upstream = await provider({ keys: [keyOf(name)] });
    providers[name] = upstream;
    upstream.script((request) => {
      if (request.method !== "POST") return lists.get(name);
      asked.push(name);
      const answering = answers.get(name);
      if (typeof answering === "function") return answering(request);
      if (answering === undefined || !("length" in answering)) return answering;
      const turn = turns.get(name) ?? 0;
      turns.set(name, turn + 1);
      return answering[turn];
    });
  }

  const credentials = inputs.map((each) => ({ apiKey: keyOf(each.name), baseUrl: providers[each.name]?.url ?? "", ...each }));
  async function another(extra: GuardOptions = {}): Promise<TestGateway> {
    return closeLater(await testGateway({ credentials, clock, management: { key: ADMIN }, ...more, ...extra }));
  }
  let gateway = await another();

  const kit: Accounts = {
    clock,
    providers,
    get gateway() {
      return gateway;
    },
    get guard() {
      return gateway.guard;
    },
    asked: () => asked.join(""),
    counts: () => Object.fromEntries(names.map((name) => [name, asked.filter((each) => each === name).length])),
    forget() {
      asked = [];
    },
    answer(credential, answering) {
      answers.set(credential, answering);
      turns.delete(credential);
    },
    list: (credential, models) =>
      void lists.set(credential, "length" in models ? { body: { object: "list", data: models.map(listedModel) } } : models),
    listed: (credential) => providers[credential]?.log.filter(({ method }) => method === "GET").length ?? 0,
    ask: (body = {}, { of: asker = gateway, ...init } = {}) => replyOf(chat(asker.url, { model: MODEL, ...body }, init)),
    async several(count, body) {
      const before = asked.length;
      for (let i = 0; i < count; i += 1) await kit.ask(body);
      return asked.slice(before).join("");
    },
    credential(name) {
      const found = gateway.guard.admin.health().credentials.find((each) => each.name === name);
      if (!found) throw new Error(`there is no credential ${name}`);
      return found;
    },
    health: () => gateway.guard.admin.health(),
    async manage(method, path) {
      const response = await fetch(`${gateway.url}/llm/v0/management/${path}`, { method, headers: { authorization: `Bearer ${ADMIN}` } });
      return { status: response.status, body: (await response.json()) as Record<string, unknown> };
    },
    async metric(name) {
      const text = (await gateway.guard.metrics())?.text ?? "";
      const samples = text.split("\n").filter((line) => line.startsWith(`quotaguard_${name}{`) || line.startsWith(`quotaguard_${name} `));
      return Object.fromEntries(
        samples.map((line) => {
          const space = line.lastIndexOf(" ");
          return [line.slice(`quotaguard_${name}`.length, space) || "{}", Number(line.slice(space + 1))];
        }),
      );
    },
    another,
    async restart() {
      await gateway.close();
      gateway = await another();
    },
  };
  return kit;
}

/** Several at the same time. */
export const atOnce = (count: number, ask: (i: number) => Promise<Reply>): Promise<readonly Reply[]> =>
  Promise.all(Array.from({ length: count }, (_, i) => ask(i)));

/** A refusal that says nothing about when to come back, as the fake's own headers would. */
export const silent = (status: number, headers: Readonly<Record<string, string>> = {}): FakeReply => ({
  status,
  headers: { "x-ratelimit-reset-requests": "", ...headers },
});

/** Accounts in a fixed order, so that the first one is asked whenever it may be. */
export const ordered = (names: readonly string[] = ["a", "b"], more: GuardOptions = {}): Promise<Accounts> =>
  accounts(names, { router: { strategy: "fill-first" }, ...more });
