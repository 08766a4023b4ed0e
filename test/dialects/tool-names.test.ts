import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { toolNames, type NameRule } from "../../src/dialects/tool-names.ts";

const RULE: NameRule = { maxLength: 64, allowed: /[a-zA-Z0-9_-]/, first: /[a-zA-Z_]/ };

describe("tool names", () => {
  test("that a provider takes stay as they are", () => {
    const names = toolNames(["get_weather", "b"], RULE);
    expect([names.sent("get_weather"), names.original("get_weather"), names.original("never sent")]).toEqual([
      "get_weather",
      "get_weather",
      "never sent",
    ]);
  });

  test("tool-name-too-long-shortened-and-restored: a server's prefix gives way to the tool's own name", () => {
    const long = `mcp__${"server".repeat(12)}__read_file`;
    const names = toolNames([long], RULE);
    expect(names.sent(long)).toBe("mcp__read_file");
    expect(names.original("mcp__read_file")).toBe(long);
    const plain = "x".repeat(100);
    expect(toolNames([plain], RULE).sent(plain)).toBe("x".repeat(64));
  });

  test("two-names-collide-after-shortening: each has its own, and one that needs no change keeps its name", () => {
    const [a, b] = ["y".repeat(70), "y".repeat(71)];
    const kept = "y".repeat(64);
    const names = toolNames([a, b, kept], RULE);
    const sent = [names.sent(a), names.sent(b), names.sent(kept)];
    expect(new Set(sent).size).toBe(3);
    expect(sent[2]).toBe(kept);
    expect(sent.map(names.original)).toEqual([a, b, kept]);
  });

  test("any names: what is sent fits the rule, differs, and is restored", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.string({ maxLength: 90, unit: "grapheme" }), { maxLength: 20 }), (all) => {
        const names = toolNames(all, RULE);
        const sent = all.map(names.sent);
        for (const name of sent) expect(name).toMatch(/^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$/);
        expect(new Set(sent).size).toBe(all.length);
        expect(sent.map(names.original)).toEqual(all);
      }),
    );
  });
});
