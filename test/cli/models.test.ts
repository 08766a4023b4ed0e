import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { endChildren, folder, quotaguard, type Folder } from "../helpers/child.ts";
import { freePort } from "../setup/server-process.ts";

const KEY = "sk-upstream-secret-canary-1";
const WRONG = "sk-some-other-secret-canary";

let openai: FakeUpstream;
let local: FakeUpstream;
let place: Folder;
beforeAll(async () => {
  openai = await fakeUpstream({ keys: [KEY], models: ["gpt-4o", "gpt-4o-2024-11-20", "gpt-4o-mini", "whisper-1"] });
  local = await fakeUpstream({ models: ["llama-3", "gpt-4o-mini"] });
});
afterAll(() => Promise.all([openai.close(), local.close()]));
beforeEach(() => {
  place = folder();
  for (const upstream of [openai, local]) upstream.reset();
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const yaml = (more = "", key = KEY): string => `server: { master_key: master-key-for-tests-1, default_models_rpm: 500 }
credentials:
  - { name: main, api_key: ${key}, base_url: "${openai.url}", models: ["gpt-*"], rpm: 60, tpm: 90000 }
  - { name: spare, api_key: ${key}, base_url: "${openai.url}", models: ["gpt-4o-2024-11-20"], max_concurrent: 2 }
  - { name: box, provider: openai-compatible, base_url: "${local.url}" }
models:
  - { name: big, model: gpt-4o-2024-11-20, credential: main, rpm: 50, tpm: 10000, price: { input_per_mtok: 2.5, output_per_mtok: 10 } }
  - { name: big, model: llama-3, credential: box }
  - { name: gone, credential: main }
prices: { book: false }
model_alias: { fast: gpt-4o-mini, cheap: "openai-compatible:gpt-4o-mini", lost: nowhere-to-be-found }
${more}`;

interface Row {
  readonly model: string;
  readonly providerModel: string;
  readonly credentials: readonly string[];
  readonly aliases: readonly string[];
  readonly rpm: number;
  readonly tpm: number;
  readonly price: Readonly<Record<string, number>> | null;
}

interface Report {
  readonly ok: boolean;
  readonly config: string;
  readonly warnings: readonly string[];
  readonly models: readonly Row[];
  readonly credentials: readonly Readonly<Record<string, unknown>>[];
}

async function run(args: readonly string[], file: string | null) {
  if (file !== null) place.write("quotaguard.yaml", file);
  const { code, stdout, stderr } = await quotaguard(["models", ...args], { cwd: place.path }).ended;
  for (const secret of [KEY, WRONG, "master-key-for-tests-1"]) expect(stdout + stderr).not.toContain(secret);
  return { code, stdout, stderr };
}

async function report(file: string | null) {
  const { code, stdout, stderr } = await run(["--json"], file);
  expect(stderr).toBe("");
  return { code, ...(JSON.parse(stdout) as Report) };
}

describe("models --json", () => {
  test("tells each model as clients name it, who serves it under which name, limits and price", async () => {
    const { code, ok, config, models, credentials } = await report(yaml());
    expect([code, ok, config]).toEqual([0, true, `${place.path}/quotaguard.yaml`]);
    const price = expect.objectContaining({ inputPerMtok: 2.5, cacheReadPerMtok: 2.5, outputPerMtok: 10, perRequest: 0 }) as unknown;
    expect(models).toEqual([
      { model: "big", providerModel: "gpt-4o-2024-11-20", credentials: ["main"], aliases: [], rpm: 50, tpm: 10_000, price },
      { model: "big", providerModel: "llama-3", credentials: ["box"], aliases: [], rpm: 500, tpm: -1, price: null },
      { model: "gone", providerModel: "gone", credentials: ["main"], aliases: [], rpm: 500, tpm: -1, price: null },
      { model: "gpt-4o-2024-11-20", providerModel: "gpt-4o-2024-11-20", credentials: ["main"], aliases: [], rpm: 500, tpm: -1, price },
      { model: "gpt-4o-2024-11-20", providerModel: "gpt-4o-2024-11-20", credentials: ["spare"], aliases: [], rpm: 500, tpm: -1, price: null },
      { model: "gpt-4o", providerModel: "gpt-4o", credentials: ["main"], aliases: [], rpm: 500, tpm: -1, price: null },
      { model: "gpt-4o-mini", providerModel: "gpt-4o-mini", credentials: ["main"], aliases: ["fast"], rpm: 500, tpm: -1, price: null },
      { model: "gpt-4o-mini", providerModel: "gpt-4o-mini", credentials: ["box"], aliases: ["fast", "cheap"], rpm: 500, tpm: -1, price: null },
    ]);
    const unlimited = { rpm: -1, tpm: -1, maxConcurrent: -1 };
    expect(credentials).toEqual([
      { credential: "main", provider: "openai", asked: true, named: true, listed: 3, problem: null, ...unlimited, rpm: 60, tpm: 90_000 },
      { credential: "spare", provider: "openai", asked: false, named: true, listed: null, problem: null, ...unlimited, maxConcurrent: 2 },
      { credential: "box", provider: "openai-compatible", asked: true, named: false, listed: 2, problem: null, ...unlimited },
    ]);
    // Each is asked once, for its list and nothing else.
    expect([...openai.log, ...local.log].map(({ method, path }) => [method, path])).toEqual([
      ["GET", "/v1/models"],
      ["GET", "/v1/models"],
    ]);
  });

  test("puts credentials that serve a model alike on one row", async () => {
    const twins = ["one", "two"].map((name) => `  - { name: ${name}, provider: openai-compatible, base_url: "${local.url}" }\n`).join("");
    const { models } = await report(`credentials:\n${twins}`);
    expect(models.map(({ model, credentials }) => [model, credentials])).toEqual([
      ["gpt-4o-mini", ["one", "two"]],
      ["llama-3", ["one", "two"]],
    ]);
  });

  test("warns of what is configured and served by nobody", async () => {
    const withoutBox = yaml().replaceAll(/.*\bbox\b.*\n/g, "");
    const { code, warnings } = await report(withoutBox.replace("{ name: gone, credential: main }", "{ name: gone }"));
    expect(code).toBe(0);
    expect(warnings).toEqual([
      expect.stringMatching(/^models: no credential offers gone\b/),
      expect.stringMatching(/^model_alias: cheap stands for openai-compatible:gpt-4o-mini, which no credential/),
      expect.stringMatching(/^model_alias: lost stands for nowhere-to-be-found, which no credential/),
    ]);
  });

  test("warns of a model that stands in the configuration and on no provider's list any more", async () => {
    const models = "models:\n  - { name: llama-3 }\n  - { name: llama-2, rpm: 5 }\n  - { name: old, model: llama-1, credential: box }\n";
    const file = `credentials:\n  - { name: box, provider: openai-compatible, base_url: "${local.url}" }\n${models}`;
    const { code, warnings } = await report(file);
    expect([code, warnings]).toEqual([
      0,
      [
        "models: llama-2 is not on the list of box, and may be refused there",
        "models: old (there llama-1) is not on the list of box, and may be refused there",
      ],
    ]);
    // Who was not asked, or could not be, may well have it.
    const named = file.replace("provider: openai-compatible,", 'provider: openai-compatible, models: ["llama-3", "llama-2", "llama-1"],');
    expect((await report(named)).warnings).toEqual([]);
    expect((await report(file.replace(local.url, `http://127.0.0.1:${await freePort()}`))).warnings).toEqual([]);
  });

  test("tells which credential could not be asked and why, and what the others offer: exit 1", async () => {
    const port = await freePort();
    const off = `  - { name: off, provider: openai-compatible, base_url: "http://127.0.0.1:${port}" }\n`;
    const { code, ok, models, credentials } = await report(yaml("", WRONG).replace("models:\n", `${off}models:\n`));
    expect([code, ok]).toEqual([1, false]);
    expect(credentials.filter(({ problem }) => problem !== null)).toEqual([
      expect.objectContaining({
        credential: "main",
        asked: true,
        listed: null,
        problem: "the provider answers with status 401: the key is not accepted",
      }),
      expect.objectContaining({ credential: "off", asked: true, listed: null, problem: expect.stringContaining("ECONNREFUSED") }),
    ]);
    // The configured ones stand, and nobody is named who might have it.
    expect(models.map(({ model, credentials: names }) => [model, names])).toEqual([
      ["big", ["main"]],
      ["big", ["box"]],
      ["gone", ["main"]],
      ["gpt-4o-2024-11-20", ["main"]],
      ["gpt-4o-2024-11-20", ["spare"]],
      ["gpt-4o-mini", ["box"]],
    ]);
  });

  test("a wrong file is exit 2, and a configuration without credentials offers nothing", async () => {
    const wrong = await run(["--json"], yaml("limts: []\n"));
    expect([wrong.code, JSON.parse(wrong.stdout)]).toEqual([2, { ok: false, problems: [expect.stringContaining("did you mean limits?")] }]);
    expect(await report("server: { port: 1 }\n")).toMatchObject({ code: 0, ok: true, models: [], credentials: [] });
  });

  test("--config names another file", async () => {
    const path = place.write("other.yaml", yaml());
    const { code, stdout } = await run(["--json", "--config", path], null);
    expect([code, (JSON.parse(stdout) as Report).config]).toEqual([0, path]);
  });
});

describe("models", () => {
  test("prints tables: aligned, without colours or progress in a pipe", async () => {
    const { code, stdout, stderr } = await run([], yaml());
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).not.toContain("\u001b[");
    const [models, credentials, end] = stdout.split("\n\n").map((part) => part.trimEnd().split("\n")) as [string[], string[], string[]];
    expect(models.map((line) => line.replaceAll(/ {2,}/g, " | "))).toEqual([
      "model | at the provider | credentials | aliases | limits | USD per Mtok, in / out",
      "big | gpt-4o-2024-11-20 | main | 50 rpm, 10000 tpm | 2.5 / 10",
      "big | llama-3 | box | 500 rpm",
      "gone | main | 500 rpm",
      "gpt-4o-2024-11-20 | main | 500 rpm | 2.5 / 10",
      "gpt-4o-2024-11-20 | spare | 500 rpm",
      "gpt-4o | main | 500 rpm",
      "gpt-4o-mini | main | fast | 500 rpm",
      "gpt-4o-mini | box | fast, cheap | 500 rpm",
    ]);
    const limits = models[0]?.indexOf("limits") as number;
    for (const line of models.slice(1)) expect(line.slice(limits)).toMatch(/^\d+ rpm/);
    expect(credentials.map((line) => line.replaceAll(/ {2,}/g, " | "))).toEqual([
      "credential | provider | limits | its list",
      "main | openai | 60 rpm, 90000 tpm | lists 3 models",
      "spare | openai | 2 at one time | not asked: the configuration names all its models",
      "box | openai-compatible | lists 2 models",
    ]);
    expect(end).toEqual([expect.stringMatching(/^warn {2}model_alias: lost /), "5 models from 3 credentials"]);
  });

  test("says at the end what could not be asked", async () => {
    const { code, stdout } = await run([], yaml("", WRONG));
    expect(code).toBe(1);
    expect(stdout).toMatch(/^main .* the provider answers with status 401: the key is not accepted$/m);
    expect(stdout).toMatch(/; 1 of them could not be asked\n$/);
  });

  test("without a credential says so", async () => {
    const { code, stdout } = await run([], "server: { port: 1 }\n");
    expect([code, stdout]).toEqual([0, "no credential is configured, so nothing is offered\n"]);
  });
});
