import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { endChildren, folder, quotaguard, type Folder } from "../helpers/child.ts";

let place: Folder;
beforeEach(() => {
  place = folder();
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const list = (perToken: number): string =>
  JSON.stringify({ "gpt-4o": { litellm_provider: "openai", input_cost_per_token: perToken, output_cost_per_token: 4 * perToken } });

const config = (prices: string): string => `credentials:
  - { name: main, api_key: sk-some-secret-canary, models: [gpt-4o, o3, "gpt-5*"] }
  - { name: box, provider: openai-compatible, base_url: "http://127.0.0.1:9", models: [llama-3] }
models:
  - { name: o3, price: { input_per_mtok: 2, output_per_mtok: 8, tiers: [{ above_input_tokens: 1000, input_per_mtok: 4 }] } }
prices: ${prices}
`;

async function run(file: string, ...args: readonly string[]) {
  place.write("quotaguard.yaml", file);
  const { code, stdout, stderr } = await quotaguard(["prices", ...args], { cwd: place.path }).ended;
  expect(stdout + stderr).not.toContain("secret-canary");
  return { code, stdout, stderr };
}
async function json(file: string, ...args: readonly string[]): Promise<Readonly<Record<string, unknown>>> {
  const { code, stdout } = await run(file, ...args, "--json");
  return { code, ...(JSON.parse(stdout) as Record<string, unknown>) };
}

describe("prices list", () => {
  const rates = (input: number, output: number) => ({
    inputPerMtok: input,
    cacheReadPerMtok: input,
    cacheWritePerMtok: input,
    cacheWriteLongPerMtok: input,
    audioInputPerMtok: input,
    imageInputPerMtok: input,
    outputPerMtok: output,
    reasoningPerMtok: output,
    audioOutputPerMtok: output,
    imageOutputPerMtok: output,
    predictionPerMtok: output,
    perRequest: 0,
    perImage: 0,
  });

  test("tells what each model costs at each credential, who says so, and the version that rows have", async () => {
    place.write("prices.json", list(2.5e-6));
    const file = config("{ files: [./prices.json], markup_pct: 10 }");
    const version = (kind: string): unknown => expect.stringMatching(new RegExp(`^${kind}:[0-9a-f]{10}$`));
    const main = { credential: "main", provider: "openai", markupPct: 10 };
    const path = join(place.path, "prices.json");
    expect(await json(file, "list")).toEqual({
      code: 0,
      ok: true,
      prices: [
        { ...main, model: "gpt-4o", price: rates(2.5, 10), source: path, version: version("file") },
        { model: "llama-3", credential: "box", provider: "openai-compatible", price: null, markupPct: null, source: null, version: null },
        {
          ...main,
          model: "o3",
          price: { ...rates(2, 8), tiers: [{ aboveInputTokens: 1_000, ...rates(4, 8) }] },
          source: "models[0].price",
          version: version("models"),
        },
      ],
      files: [{ file: path, models: 1, readAt: expect.stringMatching(/^2/), problem: null }],
    });
    const { stdout } = await run(file, "list");
    expect(stdout).toMatch(/^gpt-4o +main +2\.5 \/ 10 +10 % +.*prices\.json +file:/m);
    expect(stdout).toMatch(/^llama-3 +box +not priced$/m);
    expect(stdout).toContain("3 prices, 1 of them missing");
  });

  test("of one model, also one that no line names, and as it is for an org", async () => {
    const rules =
      '{ rules: [{ model: "gpt-5*", price: { input_per_mtok: 1, output_per_mtok: 2 } }, { org: acme, price: { input_per_mtok: 7, output_per_mtok: 7 } }] }';
    const of = async (...args: readonly string[]) =>
      ((await json(config(rules), "list", ...args)).prices as { model: string; source: string }[]).map(({ model, source }) => [model, source]);
    expect(await of("--model", "gpt-5-mini")).toEqual([["gpt-5-mini", "prices.rules[0]"]]);
    expect(await of("--model", "gpt-5-mini", "--org", "acme")).toEqual([["gpt-5-mini", "prices.rules[1]"]]);
    expect(await of("--model", "o*")).toEqual([["o3", "models[0].price"]]);
  });

  test("fails when a file cannot be read", async () => {
    const { code, ok, files } = await json(config("{ files: [gone.json] }"), "list");
    expect([code, ok, files]).toEqual([1, false, [expect.objectContaining({ models: 0, readAt: null, problem: expect.stringContaining("ENOENT") })]]);
    expect((await run(config("{ files: [gone.json] }"), "list")).stdout).toContain("FAIL");
  });
});

describe("prices import", () => {
  const file = config("{ files: [./prices.json] }");
  const saved = (): string => readFileSync(join(place.path, "prices.json"), "utf8");

  test("tells what would change, and writes nothing", async () => {
    place.write("prices.json", list(1e-6));
    place.write("new.json", list(2e-6));
    const { changes, ...rest } = await json(file, "import", "new.json");
    expect(rest).toEqual({ code: 0, ok: true, shape: "litellm", models: 1, saved: null });
    expect(changes).toMatchObject([
      { before: { model: "gpt-4o", price: { inputPerMtok: 1 } }, after: { model: "gpt-4o", price: { inputPerMtok: 2 } } },
    ]);
    expect(saved()).toBe(list(1e-6));
    const { stdout } = await run(file, "import", "new.json");
    expect(stdout).toMatch(/^gpt-4o +main +1 \/ 4 +2 \/ 8 +file:/m);
    expect(stdout).toContain("1 price changes; nothing was written");
  });

  test("with --write replaces the list, also one that was not there or broken", async () => {
    place.write("new.json", list(2e-6));
    for (const before of [null, "{", list(1e-6)]) {
      if (before !== null) place.write("prices.json", before);
      expect(await json(file, "import", "new.json", "--write")).toMatchObject({ code: 0, saved: join(place.path, "prices.json") });
      expect(saved()).toBe(list(2e-6));
    }
    expect(readdirSync(place.path).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("refuses what is no list, and has to be told where to save one", async () => {
    place.write("prices.json", list(1e-6));
    place.write("new.json", "{}");
    const refused = await run(file, "import", "new.json", "--write");
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining("it prices no model")]);
    expect(saved()).toBe(list(1e-6));
    place.write("new.json", list(2e-6));
    expect((await run(config("{}"), "import", "new.json", "--write")).stderr).toContain("prices.files: names no path");
    expect((await run(file, "import", "http://models.dev/api.json")).stderr).toContain("must be a path or an https:// URL");
  });
});
