import { describe, expect, test } from "vitest";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";
import { problemsOf } from "./options-kit.ts";

const resolved = (fail2ban: GuardOptions["fail2ban"]) => resolveOptions(fail2ban === undefined ? {} : { fail2ban }).fail2ban;

const DEFAULTS = {
  maxAttempts: 3,
  windowMs: 600_000,
  banMs: null,
  codes: [401, 403, 429, 500, 502, 503, 504],
  rules: [],
  clients: { maxAttempts: 20, windowMs: 60_000, banMs: 900_000, validKeys: "pass" },
};

describe("fail2ban", () => {
  test.each([[undefined], [false]] as const)("%j is off", (option) => expect(resolved(option)).toBeNull());

  test.each([[true], [{}], [{ clients: true }], [{ clients: {} }], [{ errorCodes: [] }]])("%j is all defaults", (option) =>
    expect(resolved(option)).toEqual(DEFAULTS),
  );

  test("takes numbers of its own", () => {
    const clients = { maxAttempts: 5, window: "5m", banDuration: "permanent", validKeys: "refuse" } as const;
    expect(resolved({ maxAttempts: 10, window: "30s", banDuration: "2h", errorCodes: [429, 500, 429], clients })).toEqual({
      maxAttempts: 10,
      windowMs: 30_000,
      banMs: 7_200_000,
      codes: [429, 500],
      rules: [],
      clients: { maxAttempts: 5, windowMs: 300_000, banMs: null, validKeys: "refuse" },
    });
  });

  test("may ban credentials only", () => expect(resolved({ clients: false })?.clients).toBeNull());

  test("a rule takes from the section what it does not say", () => {
    const rules = [
      { code: 429, maxAttempts: 1, banDuration: "10s" },
      { code: 503, maxAttempts: 2 },
      { code: 500, banDuration: "permanent" },
      { code: 418 },
    ];
    expect(resolved({ maxAttempts: 7, banDuration: "1h", errorCodeRules: rules })?.rules).toEqual([
      { code: 429, maxAttempts: 1, banMs: 10_000 },
      { code: 503, maxAttempts: 2, banMs: 3_600_000 },
      { code: 500, maxAttempts: 7, banMs: null },
      { code: 418, maxAttempts: 7, banMs: 3_600_000 },
    ]);
  });

  test("a ban may last ten years, longer than any timer", () => expect(resolved({ banDuration: "3650d" })?.banMs).toBe(315_360_000_000));

  const bad: readonly (readonly [string, object | string | null, readonly string[]])[] = [
    ["no bans at all", { maxAttempts: 0 }, ["fail2ban.maxAttempts: must be at least 1"]],
    ["a window without a unit", { window: "10" }, [expect.stringContaining("fail2ban.window: expected a duration") as string]],
    ["a window of nothing", { window: 0 }, ["fail2ban.window: must be between 1s and 24d"]],
    ["a ban of nothing", { banDuration: 0 }, ["fail2ban.banDuration: must be between 1ms and 3650d"]],
    ["a ban of eleven years", { banDuration: "4015d" }, ["fail2ban.banDuration: must be between 1ms and 3650d"]],
    [
      "another word for ever",
      { banDuration: "forever" },
      ["fail2ban.banDuration: expected permanent, or a duration: ms as a number, or a number with its unit such as 30s, 15m, 2h, 30d"],
    ],
    ["a code that is no error", { errorCodes: [200] }, ["fail2ban.errorCodes[0]: must be at least 400"]],
    ["a code beyond HTTP", { errorCodes: [429, 600] }, ["fail2ban.errorCodes[1]: must be at most 599"]],
    [
      "a code that any client can bring about",
      { errorCodes: [422] },
      ["fail2ban.errorCodes[0]: says that the request is wrong, which any client can bring about: it cannot ban a credential"],
    ],
    ["a rule without a code", { errorCodeRules: [{ maxAttempts: 1 }] }, ["fail2ban.errorCodeRules[0].code: is required (a number)"]],
    [
      "two rules for one code",
      { errorCodeRules: [{ code: 429 }, { code: 500 }, { code: 429 }] },
      ["fail2ban.errorCodeRules[2].code: 429 has a rule already; one rule a code"],
    ],
    ["a mistyped option", { banDuraton: "1h" }, ["fail2ban.banDuraton: unknown option; did you mean banDuration?"]],
    ["another word for keys", { clients: { validKeys: "allow" } }, ["fail2ban.clients.validKeys: expected one of pass, refuse"]],
    ["clients of the wrong kind", { clients: 5 }, ["fail2ban.clients: expected true, false or { maxAttempts, window, banDuration, validKeys }"]],
    ["a word in its place", "on", ["fail2ban: expected true, false or { maxAttempts, window, banDuration, errorCodes, errorCodeRules, clients }"]],
    ["nothing in code", null, ["fail2ban: expected true, false or { maxAttempts, window, banDuration, errorCodes, errorCodeRules, clients }"]],
  ];
  test.each(bad)("%s is refused", (_what, fail2ban, lines) => expect(problemsOf({ fail2ban })).toEqual(lines));
});
