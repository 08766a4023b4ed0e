import { chmodSync, lstatSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { appendModels } from "../../src/config/models-file.ts";
import { ConfigError } from "../../src/core/errors.ts";
import { resolveOptions } from "../../src/options.ts";
import { folderWith } from "./folder.ts";

const CONFIG = "server: { replace_v1_models: true }\ncredentials: [{ name: main, api_key: sk-a }]\n";

describe("appendModels", () => {
  test("makes the file, and what it made is read at the next start", async () => {
    const folder = folderWith({ "quotaguard.yaml": CONFIG });
    const { modelsFile } = loadConfig({ cwd: folder, env: {} });
    expect(modelsFile).toBe(join(folder, "models.yaml"));
    expect(await appendModels(modelsFile ?? "", ["gpt-4o", "a: b", "gpt-4o"], -1)).toEqual(["gpt-4o", "a: b"]);
    expect(readFileSync(join(folder, "models.yaml"), "utf8")).toMatch(/^# Models that the providers list/);
    expect(resolveOptions(loadConfig({ cwd: folder, env: {} })).models).toEqual([
      { name: "gpt-4o", rpm: -1 },
      { name: "a: b", rpm: -1 },
    ]);
    expect(readdirSync(folder).toSorted()).toEqual(["models.yaml", "quotaguard.yaml"]);
  });

  test("a second time it adds nothing and leaves the file alone, to the inode", async () => {
    const folder = folderWith({});
    const path = join(folder, "models.yaml");
    await appendModels(path, ["a"], 7);
    const before = statSync(path);
    expect(await appendModels(path, ["a"], 9)).toEqual([]);
    expect(statSync(path).ino).toBe(before.ino);
    expect(readFileSync(path, "utf8")).toContain("rpm: 7");
  });

  test("keeps what a person wrote, and the file's mode", async () => {
    const text = "# mine\nmodels:\n  - name: a # keep\n    rpm: 3\n";
    const folder = folderWith({ "models.yaml": text });
    const path = join(folder, "models.yaml");
    chmodSync(path, 0o660);
    expect(await appendModels(path, ["a", "b"], 5)).toEqual(["b"]);
    expect(readFileSync(path, "utf8")).toBe(`${text}  - name: b\n    rpm: 5\n`);
    expect(statSync(path).mode & 0o777).toBe(0o660);
  });

  test("two at one time both arrive", async () => {
    const path = join(folderWith({}), "models.yaml");
    const added = await Promise.all([appendModels(path, ["a", "b"], 1), appendModels(path, ["b", "c"], 1), appendModels(path, ["d"], 1)]);
    expect(added).toEqual([["a", "b"], ["c"], ["d"]]);
    expect(readFileSync(path, "utf8").match(/name: \w/g)).toEqual(["name: a", "name: b", "name: c", "name: d"]);
  });

  test("leaves out what could not be read back: control characters, too long, references to variables", async () => {
    const folder = folderWith({ "quotaguard.yaml": CONFIG });
    const ids = ["ok", "", "a\nb", "tab\t", "x".repeat(257), "${HOME}", "os.environ/HOME", "\ud800", "$HOME", "y".repeat(256)];
    expect(await appendModels(join(folder, "models.yaml"), ids, 5)).toEqual(["ok", "$HOME", "y".repeat(256)]);
    expect(resolveOptions(loadConfig({ cwd: folder, env: {} })).models.map(({ name }) => name)).toEqual(["ok", "$HOME", "y".repeat(256)]);
  });

  test("writes through a link to a file in the same folder, and leaves the link", async () => {
    const folder = folderWith({ "real.yaml": "models: []\n" });
    const path = join(folder, "models.yaml");
    symlinkSync("real.yaml", path);
    expect(await appendModels(path, ["a"], 5)).toEqual(["a"]);
    expect(lstatSync(path).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(folder, "real.yaml"), "utf8")).toContain('"a"');
  });

  test("a link to elsewhere, or to nothing, is refused and nothing is written", async () => {
    const elsewhere = folderWith({ "other.yaml": "models: []\n" });
    const path = join(folderWith({}), "models.yaml");
    symlinkSync(join(elsewhere, "other.yaml"), path);
    await expect(appendModels(path, ["a"], 5)).rejects.toThrow("is a link to somewhere else, which is not written to");
    expect(readFileSync(join(elsewhere, "other.yaml"), "utf8")).toBe("models: []\n");
    const dangling = join(folderWith({}), "models.yaml");
    symlinkSync(join(elsewhere, "missing.yaml"), dangling);
    await expect(appendModels(dangling, ["a"], 5)).rejects.toThrow("is a link to somewhere else, which is not written to");
    expect(readdirSync(elsewhere)).toEqual(["other.yaml"]);
  });

  test("what is no list of models is refused, and stays as it is", async () => {
    const folder = folderWith({ "models.yaml": "models: [\n" });
    const path = join(folder, "models.yaml");
    const run = appendModels(path, ["a"], 5);
    await expect(run).rejects.toThrow(ConfigError);
    await expect(run).rejects.toThrow(`${path}:2:1: is not valid YAML, so no models are added to it`);
    expect(readFileSync(path, "utf8")).toBe("models: [\n");
    expect(readdirSync(folder)).toEqual(["models.yaml"]);
  });

  test("a folder in its place, a missing folder, a huge file and one that is no UTF-8 are not written to", async () => {
    const folder = folderWith({ "big.yaml": `# ${"x".repeat(1_048_576)}` });
    mkdirSync(join(folder, "models.yaml"));
    await expect(appendModels(join(folder, "models.yaml"), ["a"], 5)).rejects.toThrow("is not a file");
    await expect(appendModels(join(folder, "nowhere", "models.yaml"), ["a"], 5)).rejects.toThrow("cannot be written (ENOENT)");
    await expect(appendModels(join(folder, "big.yaml"), ["a"], 5)).rejects.toThrow("is larger than 1 MiB");
    writeFileSync(join(folder, "latin.yaml"), Buffer.from("# caf\xe9\nmodels: []\n", "latin1"));
    await expect(appendModels(join(folder, "latin.yaml"), ["a"], 5)).rejects.toThrow("is not UTF-8 text");
  });

  test("goes on after a failure", async () => {
    const folder = folderWith({ "models.yaml": "- a\n" });
    const path = join(folder, "models.yaml");
    await expect(appendModels(path, ["a"], 5)).rejects.toThrow("expected a list of models");
    writeFileSync(path, "models:\n");
    expect(await appendModels(path, ["a"], 5)).toEqual(["a"]);
  });
});

describe("models.yaml beside a config of ours", () => {
  const load = (models: string, config = CONFIG) =>
    loadConfig({ cwd: folderWith({ "quotaguard.yaml": config, "models.yaml": models }), env: { LIMIT: "9" } });
  const problemsOf = (models: string, config = CONFIG): readonly string[] => {
    try {
      load(models, config);
      return [];
    } catch (error) {
      if (error instanceof ConfigError) return error.problems;
      throw error;
    }
  };

  test("adds what the config does not describe: the same model of another credential is another", () => {
    const config = `${CONFIG}models: [{ name: a, rpm: 1 }, { name: b, credential: main }]\n`;
    const models =
      "models:\n  - { name: a, rpm: 2 }\n  - { name: b, rpm: 2 }\n  - { name: b, credential: main, rpm: 2 }\n  - { name: c, rpm: os.environ/LIMIT }\n";
    const loaded = load(models, config);
    expect(resolveOptions(loaded).models).toEqual([
      { name: "a", rpm: 1 },
      { name: "b", credential: "main" },
      { name: "b", rpm: 2 },
      { name: "c", rpm: 9 },
    ]);
    expect([loaded.sources.get("models[0].rpm"), loaded.sources.get("models[2].rpm"), loaded.sources.get("models[3].name")]).toEqual([
      "quotaguard.yaml:3",
      "models.yaml:3",
      "models.yaml:5",
    ]);
    expect(Object.keys(loaded)).not.toContain("modelsFile");
  });

  test("is neither read nor written when replace_v1_models is not on", () => {
    const loaded = load("models: [{ name: a }]\n", "credentials: [{ name: main, api_key: sk-a }]\n");
    expect(resolveOptions(loaded).models).toEqual([]);
    expect(loaded.modelsFile).toBeNull();
  });

  test("may be empty or missing", () => {
    expect(resolveOptions(load("")).models).toEqual([]);
    expect(resolveOptions(load("# nothing\nmodels:\n")).models).toEqual([]);
    expect(loadConfig({ cwd: folderWith({ "quotaguard.yaml": CONFIG }), env: {} }).modelsFile).toMatch(/models\.yaml$/);
  });

  test("without a config file there is nothing to lie beside", () => {
    expect(loadConfig({ cwd: folderWith({}), env: {}, flags: { server: { replaceV1Models: true } } }).modelsFile).toBeNull();
  });

  test.each<readonly [string, string, readonly string[]]>([
    ["a wrong value", "models:\n  - name: a\n    rpm: -5\n", ["models.yaml:3:5: models[0].rpm: must be at least -1"]],
    ["a mistyped option", "models: [{ name: a, rmp: 5 }]\n", ["models.yaml:1:21: models[0].rmp: unknown option; did you mean rpm?"]],
    ["a missing name", "models:\n  - rpm: 5\n", ["models.yaml:2:5: models[0].name: is required (a string)"]],
    [
      "an unknown credential",
      "models:\n  - { name: a, credential: mian }\n",
      ["models.yaml:2:16: models[0].credential: there is no credential mian; did you mean main?"],
    ],
    [
      "an entry twice",
      "models:\n  - { name: a }\n  - { name: a }\n",
      ["models.yaml:3:7: models[1].name: models[0] already describes it for the same credential"],
    ],
    ["other sections", "models: []\nserver: { port: 1 }\n", ["models.yaml:2:1: server: unknown option; only models are read from this file"]],
    ["models that are no list", "models: { a: 1 }\n", ["models.yaml:1:1: models: expected a list"]],
    ["an entry that is no entry", "models: [gpt-4o]\n", ["models.yaml:1:10: models[0]: expected an object, got a string"]],
    [
      "a variable that is not set",
      "models: [{ name: os.environ/NOPE }]\n",
      ["models.yaml:1:18: models[0].name: the environment variable NOPE is not set"],
    ],
    ["a syntax error", "models: [\n", ["models.yaml:2:1: is not valid YAML (bad indent); check indentation, brackets and quotes around it"]],
  ])("%s is reported at its own place", (_what, models, lines) => expect(problemsOf(models)).toEqual(lines));

  test("problems of both files come in order, the config's first", () => {
    const config = `${CONFIG}models:\n  - { name: a, rpm: x }\n  - { name: b }\n`;
    expect(problemsOf("models: [{ name: c, tpm: x }, { name: d, rpm: x }]\n", config)).toEqual([
      "quotaguard.yaml:4:16: models[0].rpm: expected a number, got a string",
      "models.yaml:1:21: models[0].tpm: expected a number, got a string",
      "models.yaml:1:42: models[1].rpm: expected a number, got a string",
    ]);
  });

  test("a config that is itself called models.yaml would be written into, so it is refused", () => {
    const cwd = folderWith({ "models.yaml": CONFIG });
    expect(() => loadConfig({ cwd, env: {}, path: "models.yaml" })).toThrow(
      "a config of this name would be written to as the list of models; rename it",
    );
  });
});
