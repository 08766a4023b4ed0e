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
    expect(problemsOf(plugin())).toEqual(["plugins: expected a list of plugins, such as plugins: [mine({ … })]"]);
    expect(problemsOf("mine")).toEqual(["plugins: expected a list of plugins, such as plugins: [mine({ … })]"]);
    expect(problemsOf(Array.from({ length: 65 }, (_, i) => plugin(`p${i}`)))).toEqual(["plugins: at most 64 plugins"]);
  });

  test("by name, ours do not exist yet, and others never did", () => {
    expect(problemsOf({ telegram: { token: "t" }, cliproxy: true, collectors: false, oauth: null })).toEqual([
      "plugins.telegram: not yet available in this version",
      "plugins.cliproxy: not yet available in this version",
    ]);
    expect(problemsOf({ telegramm: {} })).toEqual([
      "plugins.telegramm: there is no plugin of this name; did you mean telegram?; your own are a list in code: plugins: [mine({ … })]",
    ]);
    for (const off of [undefined, null, false, {}, [], { telegram: false }]) expect(problemsOf(off)).toEqual([]);
    expect([...(optionNames().options.get("plugins")?.options.keys() ?? [])]).toEqual(["telegram", "cliproxy", "collectors", "oauth"]);
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
