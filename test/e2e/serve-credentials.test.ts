// A server of its own with three accounts, as its operator lives with it: it fails, is killed, is started again, and remembers.
import { readFileSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, expect, test } from "vitest";
import { WebSocket } from "ws";
import { parse } from "yaml";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { endChildren, folder, serving, type Ended, type Folder } from "../helpers/child.ts";
import { json, scriptedProvider } from "../middleware/passthrough/provider-kit.ts";

const KEY = "qg-key-of-alice-0001";
const ADMIN = "admin-key-for-tests-0001";
const MODEL = "gpt-4o-mini";
const secretOf = (account: string): string => `sk-upstream-secret-of-${account}`;

let place: Folder;
let one: FakeUpstream;
let two: FakeUpstream;
beforeEach(async () => {
  place = folder();
  one = await fakeUpstream({ keys: [secretOf("one")], models: [MODEL, "only-one"] });
  two = await fakeUpstream({ keys: [secretOf("two")], models: [MODEL] });
});
afterEach(async () => {
  await endChildren();
  await Promise.all([one.close(), two.close()]);
  place.remove();
});

const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });

/** Status and answer of a call. */
async function chat(url: string, model = MODEL): Promise<readonly [number, string]> {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    ...bearer(KEY),
    body: JSON.stringify({ model, messages: [{ role: "user", content: "hello" }] }),
  });
  return [response.status, await response.text()];
}

async function manage(url: string, method: string, path: string): Promise<unknown> {
  const response = await fetch(`${url}/v0/management/${path}`, { method, ...bearer(ADMIN) });
  return response.json();
}

async function healthOf(url: string): Promise<Record<string, unknown>> {
  const response = await fetch(`${url}/health`);
  return { code: response.status, ...((await response.json()) as Record<string, unknown>) };
}

/** Sends a message through and returns what comes back. The socket stays open until somebody else closes it. */
async function echoed(url: string, text: string) {
  const socket = new WebSocket(`${url.replace("http", "ws")}/v1/realtime?model=gpt-realtime`, bearer(KEY));
  const closed = new Promise<number>((resolve) => void socket.once("close", resolve));
  const answer = await new Promise<string>((resolve, reject) => {
    socket.once("error", reject);
    socket.once("message", (data: Buffer) => resolve(data.toString()));
    socket.once("open", () => socket.send(text));
  });
  return { closed, answer };
}

const asked = (upstream: FakeUpstream): number => upstream.log.filter(({ method }) => method === "POST").length;

test("three accounts: states, bans and models outlast the server, and upgrades pass through it", async () => {
  const box = await scriptedProvider();
  box.on("GET /v1/models", json({ object: "list", data: [{ id: "gpt-realtime" }, { id: MODEL }] }));
  box.on("POST /v1/chat/completions", json({ id: "from-the-box", object: "chat.completion", choices: [], usage: { total_tokens: 2 } }));
  box.onSocket((socket) => socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })));
  place.write(
    "quotaguard.yaml",
    `
server: { port: 0, replace_v1_models: true, default_models_rpm: 50 }
management: { key: ${ADMIN} }
keys: [{ name: alice, key: ${KEY} }]
router: { strategy: fill-first }
fail2ban: { max_attempts: 2, ban_duration: permanent, error_codes: [500] }
credentials:
  - { name: one, api_key: ${secretOf("one")}, base_url: "${one.url}" }
  - { name: two, api_key: ${secretOf("two")}, base_url: "${two.url}" }
  - { name: box, provider: openai-compatible, api_key: ${secretOf("box")}, base_url: "${box.url}", is_fallback: true }
models:
  - { name: ${MODEL} }
`,
  );
  const ends: Ended[] = [];
  const start = () => serving([], { cwd: place.path });
  const modelsFile = (): string => readFileSync(`${place.path}/models.yaml`, "utf8");

  const first = await start();
  await first.child.line(/models that the providers list were added/);
  expect((parse(modelsFile()) as { models: unknown }).models).toEqual([
    { name: "gpt-realtime", rpm: 50 },
    { name: "only-one", rpm: 50 },
  ]);
  expect(await healthOf(first.url)).toMatchObject({
    code: 200,
    status: "healthy",
    total_credentials: 3,
    credentials_available: 3,
    bans: 0,
    cooldowns: 0,
    credentials: { one: { state: "ready" }, two: { state: "ready" }, box: { state: "ready", is_fallback: true } },
  });

  // The first account fails twice, which bans it for this model; the second one is at its provider's limit; the fallback serves.
  one.script({ status: 500 });
  two.script({ status: 429, headers: { "retry-after": "600" } });
  expect(await chat(first.url)).toEqual([200, expect.stringContaining("from-the-box")]);
  expect(await manage(first.url, "DELETE", "cooldowns/one")).toEqual({ cleared: 1 });
  expect(await chat(first.url)).toEqual([200, expect.stringContaining("from-the-box")]);
  const until = expect.stringMatching(/^\d{4}-\d\d-\d\dT/) as string;
  const struck = {
    code: 200,
    status: "healthy",
    credentials_available: 3,
    bans: 1,
    credentials: {
      one: { state: "ready", models: { [MODEL]: { state: "banned" } } },
      two: { state: "ready", models: { [MODEL]: { state: "cooling", until } } },
      box: { state: "ready" },
    },
  };
  expect(await healthOf(first.url)).toMatchObject(struck);
  const bans = await manage(first.url, "GET", "bans");
  expect(bans).toEqual({ bans: [{ credential: "one", model: MODEL, code: 500, reason: expect.any(String), since: until, until: null }] });
  const { answer, closed } = await echoed(first.url, "hello");
  expect(answer).toBe("hello");
  expect(box.log.at(-1)?.headers.authorization).toBe(`Bearer ${secretOf("box")}`);

  // It dies without a word, a person gives a model a limit, and it starts again.
  first.child.kill("SIGKILL");
  ends.push(await first.child.ended);
  expect(await closed).toBe(1006);
  const edited = modelsFile().replace("- name: only-one\n    rpm: 50", "- name: only-one # dear\n    rpm: 1");
  writeFileSync(`${place.path}/models.yaml`, edited);
  one.reset();
  two.reset();
  const second = await start();
  expect(await manage(second.url, "GET", "bans")).toEqual(bans);
  expect(await healthOf(second.url)).toMatchObject(struck);
  expect(await chat(second.url)).toEqual([200, expect.stringContaining("from-the-box")]);
  expect([asked(one), asked(two)]).toEqual([0, 0]);

  // What was written down is read back, with the limit that was given there.
  const list = (await (await fetch(`${second.url}/v1/models`, bearer(KEY))).json()) as { readonly data: readonly { readonly id: string }[] };
  expect(list.data.map(({ id }) => id)).toEqual([MODEL, "gpt-realtime", "only-one"]);
  expect((await chat(second.url, "only-one"))[0]).toBe(200);
  expect(await chat(second.url, "only-one")).toEqual([429, expect.stringContaining("all_credentials_limited")]);
  expect(modelsFile()).toBe(edited);

  // A person lets the account in again: the ban is over, and so is what is left of the pause after its last failure.
  expect(await manage(second.url, "DELETE", `bans/one?model=${MODEL}`)).toEqual({ lifted: 1 });
  expect(await manage(second.url, "DELETE", "cooldowns/one")).toEqual({ cleared: 1 });
  expect(await chat(second.url)).toEqual([200, expect.stringContaining("You said: hello")]);
  expect(await healthOf(second.url)).toMatchObject({ bans: 0, cooldowns: 1 });
  second.child.kill("SIGTERM");
  ends.push(await second.child.ended);
  expect(ends.map(({ code, signal }) => code ?? signal)).toEqual(["SIGKILL", 0]);
  const said = ends.map(({ stdout, stderr }) => stdout + stderr).join("\n");
  for (const secret of [KEY, ADMIN, "sk-upstream"]) expect(said).not.toContain(secret);
});
