import { describe, expect, test } from "vitest";
import { createGuard, definePlugin, ConfigError, type GuardOptions } from "quotaguard";
import { loadConfig } from "../../src/config/load.ts";
import { optionNames, resolveOptions } from "../../src/options.ts";
import { folder } from "../helpers/child.ts";

const plugin = (name = "mine") => ({ name, setup: () => {} });
const problemsOf = (plugins: unknown): readonly string[] => {
  try {
    resolveOptions({ plugins } as GuardOptions);
    return [];
  } catch (error) {
    return (error as ConfigError).problems;
  }
};

describe("definePlugin()", () => {
  test("returns the very value", () => {
    const mine = { ...plugin(), total: () => 5 };
    expect(definePlugin(mine)).toBe(mine);
    expect(definePlugin(mine).total()).toBe(5);
  });

  test.each([
    [{ setup() {} }, "definePlugin: needs a name: 1 to 32 characters"],
    [{ name: "Mine", setup() {} }, "needs a name"],
    [{ name: "../x", setup() {} }, "needs a name"],
    [{ name: "a".repeat(33), setup() {} }, "needs a name"],
    [{ name: "mine" }, "the plugin mine needs setup: a function (host) => …"],
    [{ name: "mine", setup: {} }, "the plugin mine needs setup"],
    [null, "expected a plugin, { name, setup }"],
    ["telegram", "expected a plugin"],
    [function telegram() {}, "is a function and not the plugin that it makes: write telegram({ … }) instead of telegram"],
    [() => {}, "write plugin({ … })"],
    [Promise.resolve(plugin()), "is a promise: await the plugin"],
  ])("refuses %o", (value, message) => {
    expect(() => definePlugin(value as never)).toThrow(ConfigError);
    expect(() => definePlugin(value as never)).toThrow(message);
  });
});

describe("the option plugins", () => {
  test("takes a list, and leaves the values as they are", () => {
    const mine = { ...plugin(), count: 0 };
    const resolved = resolveOptions({ plugins: [mine, plugin("other")] });
    expect(resolved.plugins.map(({ name }) => name)).toEqual(["mine", "other"]);
    expect(resolved.plugins[0]).toBe(mine);
    // Frozen options must not freeze somebody else's object.
    mine.count += 1;
    expect(mine.count).toBe(1);
    expect(resolveOptions({}).plugins).toEqual([]);
  });

  test("says each mistake at its place", () => {
    expect(problemsOf([plugin(), function telegram() {}, plugin("mine"), { name: "b" }])).toEqual([
      "plugins[1]: is a function and not the plugin that it makes: write telegram({ … }) instead of telegram",
      "plugins[2]: mine is already the name of plugins[0]; names must differ",
      "plugins[3]: the plugin b needs setup: a function (host) => …",
    ]);
    const expected = "plugins: expected a list of plugins, such as plugins: [mine({ … })], or ours by name, such as plugins: { collectors: true }";
    expect(problemsOf(plugin())).toEqual([expected]);
    expect(problemsOf("mine")).toEqual([expected]);
    expect(problemsOf(Array.from({ length: 65 }, (_, i) => plugin(`p${i}`)))).toEqual(["plugins[64]: at most 64 plugins"]);
  });

  test("by name, those that do not exist yet are refused, and others never did", () => {
    expect(problemsOf({ telegram: { token: "t" }, cliproxy: true, collectors: false, oauth: null })).toEqual([
      "plugins.telegram: not yet available in this version",
      "plugins.cliproxy: not yet available in this version",
    ]);
    expect(problemsOf({ telegramm: {} })).toEqual([
      "plugins.telegramm: there is no plugin of this name; did you mean telegram?; your own are a list in code: plugins: [mine({ … })]",
    ]);
    for (const off of [undefined, null, false, {}, [], { telegram: false }, { collectors: false }, { collectors: null }]) {
      expect(problemsOf(off)).toEqual([]);
      expect(resolveOptions({ plugins: off } as GuardOptions).plugins).toEqual([]);
    }
    expect([...(optionNames().options.get("plugins")?.options.keys() ?? [])].toSorted()).toEqual(["cliproxy", "collectors", "oauth", "telegram"]);
  });

  test("by name, true takes the defaults, and every option has its path", () => {
    const { plugins, namedPlugins } = resolveOptions({ plugins: { collectors: true } });
    expect(plugins.map(({ name }) => name)).toEqual(["collectors"]);
    expect(namedPlugins).toEqual({
      collectors: {
        interval: 60_000,
        workers: 8,
        jitter: 250,
        adaptive: true,
        timeout: 10_000,
        endpoints: {},
        antigravity: { port: null, csrf: null, startCmd: null, startTimeout: 15_000 },
      },
    });
    expect(resolveOptions({ plugins: { collectors: { interval: "2m" } } }).namedPlugins?.collectors).toMatchObject({ interval: 120_000, workers: 8 });
    expect(
      problemsOf({
        collectors: {
          intervall: "1m",
          workers: 0,
          jitter: "soon",
          endpoints: { claud: "http://127.0.0.1", codex: "ftp://x" },
          antigravity: { port: 0, startcmd: "x" },
        },
      }).toSorted(),
    ).toEqual([
      "plugins.collectors.antigravity.port: must be at least 1",
      "plugins.collectors.antigravity.startcmd: unknown option; did you mean startCmd?",
      expect.stringContaining("plugins.collectors.endpoints.claud: unknown option; did you mean claude?"),
      expect.stringContaining("plugins.collectors.endpoints.codex: expected a URL"),
      "plugins.collectors.intervall: unknown option; did you mean interval?",
      expect.stringContaining("plugins.collectors.jitter: expected a duration"),
      "plugins.collectors.workers: must be at least 1",
    ]);
    expect(problemsOf({ collectors: "yes" })).toEqual(["plugins.collectors: expected true, false or its options"]);
  });

  test("by name, they bring no providers: a wrong one is told at once", () => {
    const options = { plugins: { collectors: true }, credentials: [{ name: "a", provider: "opnai", apiKey: "sk-1" }] };
    expect(() => resolveOptions(options as GuardOptions)).toThrow("credentials[0].provider: expected one of");
  });

  test("in a file the same, with line and column", () => {
    const place = folder();
    try {
      const load = (text: string): unknown => loadConfig({ path: place.write("quotaguard.yaml", text), env: {}, cwd: place.path });
      expect(() => load("plugins:\n  telegram: { token: a, allowed_ids: [1] }\n")).toThrow(
        "quotaguard.yaml:2:3: plugins.telegram: not yet available in this version",
      );
      expect(() => load("plugins:\n  mine: true\n")).toThrow("quotaguard.yaml:2:3: plugins.mine: there is no plugin of this name");
      expect(() => load("plugins: [telegram]\n")).toThrow(
        "plugins[0]: expected a plugin, { name, setup }, as definePlugin() returns it; only code can give one",
      );
      expect(() => load("plugins:\n  telegram: false\n")).not.toThrow();
      expect(() => load("plugins:\n  collectors:\n    interval: 1m\n    start_timeout: 1m\n")).toThrow(
        "quotaguard.yaml:4:5: plugins.collectors.start_timeout: unknown option",
      );
      const { namedPlugins } = resolveOptions(
        load("plugins: { collectors: { antigravity: { start_cmd: antigravity, csrf: secret-1 } } }\n") as GuardOptions,
      );
      expect(namedPlugins?.collectors?.antigravity).toMatchObject({ startCmd: "antigravity", startTimeout: 15_000 });
      expect(JSON.stringify(namedPlugins)).not.toContain("secret-1");
    } finally {
      place.remove();
    }
  });

  test("stands beside what a file says", async () => {
    const notes: string[] = [];
    const guard = createGuard({
      ...loadConfig({ env: {}, cwd: "/nowhere" }),
      plugins: [{ name: "mine", setup: () => void notes.push("set up") }],
    });
    await guard.ready();
    await guard.close();
    expect(notes).toEqual(["set up"]);
  });
});
