// What clients see as models: all that any account offers, asked for at the same time, never emptied by one that fails, and steering the choice.
import { existsSync, readFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { parse } from "yaml";
import type { GuardOptions } from "quotaguard";
import { KEY, OTHER_KEY } from "../helpers/app.ts";
import { endChildren, folder, serving, type Folder } from "../helpers/child.ts";
import { accounts, endAccounts, keyOf, PATIENTLY, type AccountInput, type Accounts } from "./accounts-kit.ts";

afterEach(endAccounts);

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

const get = (kit: Accounts, path = "", key = KEY): Promise<Response> =>
  fetch(`${kit.gateway.url}/llm/v1/models${path}`, { headers: { authorization: `Bearer ${key}` } });
interface Listed {
  readonly id: string;
  readonly owned_by: string;
}
const listOf = async (kit: Accounts, key = KEY): Promise<readonly Listed[]> => ((await (await get(kit, "", key)).json()) as { data: Listed[] }).data;
const idsOf = async (kit: Accounts, key = KEY): Promise<readonly string[]> => (await listOf(kit, key)).map(({ id }) => id);

async function listing(
  lists: Readonly<Record<string, readonly string[]>>,
  more: GuardOptions = {},
  inputs: readonly AccountInput[] = [],
): Promise<Accounts> {
  const kit = await accounts(
    Object.keys(lists).map((name) => ({ name, ...inputs.find((each) => each.name === name) })),
    more,
  );
  for (const [name, models] of Object.entries(lists)) kit.list(name, models);
  return kit;
}

describe("the list", () => {
  test("is the union over all accounts and the configuration, each name once, in a stable order", async () => {
    const kit = await listing({ a: ["zeta", "gpt-4o"], b: ["gpt-4o", "alpha"] }, { models: [{ name: "my-model", model: "zeta", credential: "a" }] });
    const first = await idsOf(kit);
    expect(first).toEqual(["my-model", "alpha", "gpt-4o"]);
    kit.list("a", ["gpt-4o", "zeta"]);
    kit.list("b", ["alpha", "gpt-4o"]);
    kit.clock.advance(6 * MINUTE);
    await idsOf(kit);
    await expect.poll(() => kit.listed("a"), PATIENTLY).toBe(2);
    expect(await idsOf(kit)).toEqual(first);
  });

  test("is asked for at all accounts at the same time, once for many clients", async () => {
    const kit = await listing({ a: [], b: [], c: [] });
    const letGo = Promise.withResolvers<void>();
    for (const name of ["a", "b", "c"])
      kit.list(name, { hold: letGo.promise, body: { object: "list", data: [{ id: `from-${name}`, object: "model" }] } });
    const many = Array.from({ length: 20 }, () => idsOf(kit));
    // None has answered, and all have been asked.
    await Promise.all(["a", "b", "c"].map((name) => kit.providers[name]?.received(1)));
    letGo.resolve();
    for (const ids of await Promise.all(many)) expect(ids).toEqual(["from-a", "from-b", "from-c"]);
    expect(["a", "b", "c"].map(kit.listed)).toEqual([1, 1, 1]);
  });

  test.each([
    ["refuses", { status: 401 }],
    ["breaks", { fault: { at: "start", how: "reset" } }],
    ["sends something else", { body: "<html>" }],
    ["sends a list of nothing", { body: { object: "list", data: "none" } }],
  ] as const)("has the others' models when one account %s", async (_what, reply) => {
    const kit = await listing({ a: [], b: ["llama"] }, { models: [{ name: "named" }] });
    kit.list("a", reply);
    expect(await idsOf(kit)).toEqual(["named", "llama"]);
  });

  test("waits no longer than five seconds for one that does not answer", async () => {
    const kit = await listing({ a: [], b: ["llama"] });
    kit.list("a", { fault: { at: "start", how: "hang" } });
    const pending = idsOf(kit);
    await kit.providers["a"]?.received(1);
    // Once the other's list is known, what is not on it goes to the one whose list is not.
    await expect.poll(() => kit.several(2, { model: "on-no-list" }), PATIENTLY).toBe("aa");
    kit.clock.advance(5 * SECOND);
    expect(await pending).toEqual(["llama"]);
  });

  test("keeps what an account listed last when it fails later, and takes over what is new", async () => {
    const kit = await listing({ a: ["old"], b: ["llama"] });
    expect(await idsOf(kit)).toEqual(["llama", "old"]);
    kit.list("a", { fault: { at: "start", how: "hang" } });
    kit.clock.advance(6 * MINUTE);
    // Nobody waits for the second round: it goes on behind.
    expect(await idsOf(kit)).toEqual(["llama", "old"]);
    await expect.poll(() => [kit.listed("a"), kit.listed("b")], PATIENTLY).toEqual([2, 2]);
    kit.clock.advance(5 * SECOND);
    expect(await idsOf(kit)).toEqual(["llama", "old"]);
    kit.list("a", ["new"]);
    kit.clock.advance(6 * MINUTE);
    await idsOf(kit);
    await expect.poll(() => idsOf(kit), PATIENTLY).toEqual(["llama", "new"]);
  });

  test("is not asked for again within five minutes", async () => {
    const kit = await listing({ a: ["one"] });
    for (let i = 0; i < 5; i += 1) {
      await idsOf(kit);
      kit.clock.advance(50 * SECOND);
    }
    expect(kit.listed("a")).toBe(1);
  });

  test("is only what a key may use", async () => {
    const kit = await listing(
      { a: ["gpt-4o", "gpt-4o-mini", "o3"] },
      {
        models: [{ name: "gpt-private" }],
        auth: {
          keys: [
            { name: "alice", key: KEY, models: ["gpt-4o*"] },
            { name: "bob", key: OTHER_KEY },
          ],
        },
      },
    );
    expect(await idsOf(kit)).toEqual(["gpt-4o", "gpt-4o-mini"]);
    expect(await idsOf(kit, OTHER_KEY)).toEqual(["gpt-private", "gpt-4o", "gpt-4o-mini", "o3"]);
    expect((await get(kit, "/o3")).status).toBe(404);
    expect((await get(kit, "/o3", OTHER_KEY)).status).toBe(200);
    expect((await get(kit, "", "qg-a-stranger")).status).toBe(401);
  });

  test("hides aliases, which answer to their name all the same, and what a provider calls what we call otherwise", async () => {
    const kit = await listing(
      { a: ["deployment-7", "gpt-4o"] },
      {
        models: [
          { name: "mini", model: "deployment-7" },
          { name: "nobodys", credential: "a" },
        ],
        modelAlias: { fast: "mini" },
      },
    );
    expect(await idsOf(kit)).toEqual(["mini", "nobodys", "gpt-4o"]);
    const one = await get(kit, "/fast");
    expect([one.status, ((await one.json()) as Listed).id]).toEqual([200, "fast"]);
    expect((await get(kit, "/deployment-8")).status).toBe(404);
  });

  test("names no account", async () => {
    const kit = await listing({ secretaccount: ["gpt-4o"] }, { models: [{ name: "mine", credential: "secretaccount" }] });
    const text = await (await get(kit)).text();
    expect(text).toContain("the-provider");
    for (const never of ["secretaccount", keyOf("secretaccount"), "127.0.0.1"]) expect(text).not.toContain(never);
  });

  test("of an account is narrowed to what its configuration says", async () => {
    const kit = await listing({ a: ["gpt-4o", "gpt-4o-mini", "whisper-1"], b: ["anything"] }, {}, [
      { name: "a", models: ["gpt-*"] },
      { name: "b", models: ["only-this"] },
    ]);
    expect(await idsOf(kit)).toEqual(["only-this", "gpt-4o", "gpt-4o-mini"]);
    // All its models are named, so it is not asked.
    expect(kit.listed("b")).toBe(0);
  });
});

describe("who is asked for a model", () => {
  test("before any list is known, everybody", async () => {
    const kit = await listing({ a: ["llama"], b: ["gpt-4o"] });
    expect(await kit.several(4, { model: "llama" })).toBe("abab");
  });

  test("those that list it; one whose list is unknown may have it, too", async () => {
    const kit = await listing({ a: ["llama"], b: ["gpt-4o"], c: [] });
    kit.list("c", { status: 500 });
    await idsOf(kit);
    expect(await kit.several(4, { model: "llama" })).toBe("acac");
    expect(await kit.several(4, { model: "gpt-4o" })).toBe("bcbc");
  });

  test("a name on nobody's list may be too new: all that were not told what to offer may try", async () => {
    const kit = await listing({ a: ["llama"], b: ["gpt-4o"], c: ["gpt-4o"] }, {}, [{ name: "c", models: ["gpt-*"] }]);
    await idsOf(kit);
    expect(await kit.several(4, { model: "brand-new" })).toBe("abab");
  });

  test("follows the lists as they change", async () => {
    const kit = await listing({ a: ["llama"], b: ["gpt-4o"] });
    await idsOf(kit);
    expect(await kit.several(2, { model: "llama" })).toBe("aa");
    kit.list("a", ["gpt-4o"]);
    kit.list("b", ["llama"]);
    kit.clock.advance(6 * MINUTE);
    await expect.poll(async () => (await idsOf(kit)).length > 0 && kit.listed("b") === 2, PATIENTLY).toBe(true);
    await expect.poll(() => kit.several(1, { model: "llama" }), PATIENTLY).toBe("b");
    expect(await kit.several(2, { model: "gpt-4o" })).toBe("aa");
  });

  test("the configuration's word goes before a list", async () => {
    const kit = await listing({ a: ["llama"], b: [] }, { models: [{ name: "llama", credential: "b" }] });
    await idsOf(kit);
    expect(await kit.several(2, { model: "llama" })).toBe("bb");
  });
});

describe("a server that writes down what its providers list", () => {
  const KEY_LINE = "keys: [{ name: alice, key: qg-key-of-alice-0001 }]";
  let place: Folder;
  afterEach(async () => {
    await endChildren();
    place.remove();
  });

  const textOf = (): string => readFileSync(`${place.path}/models.yaml`, "utf8");
  const yaml = (kit: Accounts, more = ""): string => `
server: { port: 0, replace_v1_models: true, default_models_rpm: 2 }
store: { url: memory }
${KEY_LINE}
credentials:
${Object.entries(kit.providers)
  .map(([name, { url }]) => `  - { name: ${name}, api_key: ${keyOf(name)}, base_url: "${url}" }`)
  .join("\n")}
${more}`;
  const post = async (url: string, model: string): Promise<number> => {
    const init = { method: "POST", headers: { authorization: "Bearer qg-key-of-alice-0001" }, body: JSON.stringify({ model, messages: [] }) };
    const response = await fetch(`${url}/v1/chat/completions`, init);
    await response.text();
    return response.status;
  };

  test("adds what is new with the default rpm, changes nothing that stands there, and at the next start limits hold on each account", async () => {
    place = folder();
    const kit = await listing({ a: ["shared", "only-a"], b: ["shared", "only-b"], c: [] });
    kit.list("c", { status: 500 });
    place.write("quotaguard.yaml", yaml(kit));
    const mine = "# my models\nmodels:\n  - name: shared # the good one\n    rpm: 1\n";
    place.write("models.yaml", mine);
    const first = await serving([], { cwd: place.path });
    await expect.poll(() => textOf().length, PATIENTLY).toBeGreaterThan(mine.length);
    const written = textOf();
    expect(written.startsWith(mine)).toBe(true);
    expect((parse(written) as { models: unknown }).models).toEqual([
      { name: "shared", rpm: 1 },
      { name: "only-a", rpm: 2 },
      { name: "only-b", rpm: 2 },
    ]);
    first.child.kill("SIGTERM");
    expect((await first.child.ended).code).toBe(0);

    kit.list("c", ["shared"]);
    const { url, child } = await serving([], { cwd: place.path });
    // Whoever asks for the list first waits until all have been asked; from then on each model goes to those that have it.
    const list = await fetch(`${url}/v1/models`, { headers: { authorization: "Bearer qg-key-of-alice-0001" } });
    expect(((await list.json()) as { data: Listed[] }).data.map(({ id }) => id)).toEqual(["shared", "only-a", "only-b"]);
    kit.forget();
    const statuses: number[] = [];
    for (const model of ["shared", "shared", "shared", "shared", "only-a", "only-a", "only-a", "only-b"]) statuses.push(await post(url, model));
    expect(statuses).toEqual([200, 200, 200, 429, 200, 200, 429, 200]);
    expect(kit.counts()).toEqual({ a: 3, b: 2, c: 1 });
    expect(textOf()).toBe(written);
    child.kill("SIGTERM");
    expect((await child.ended).code).toBe(0);
  });

  test("leaves no file where nobody asked for it", async () => {
    place = folder();
    const kit = await listing({ a: ["one"] });
    place.write("quotaguard.yaml", yaml(kit).replace("replace_v1_models: true, ", ""));
    const { url, child } = await serving([], { cwd: place.path });
    expect(await post(url, "one")).toBe(200);
    child.kill("SIGTERM");
    await child.ended;
    expect(existsSync(`${place.path}/models.yaml`)).toBe(false);
  });
});
