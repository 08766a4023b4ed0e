import type { Request, Response } from "express";
import { describe, expect, test } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import { Secret } from "../../src/core/secret.ts";
import { keyMatcher, requireKey } from "../../src/management/key.ts";
import { testClock } from "../../src/testing/clock.ts";
import { KEY, management } from "./management-kit.ts";

const HALF_HOUR = 30 * 60_000;

describe("an authorization header", () => {
  const match = keyMatcher(new Secret(KEY));
  test.each<[string | undefined, "right" | "wrong" | "missing"]>([
    [`Bearer ${KEY}`, "right"],
    [`bearer   ${KEY}`, "right"],
    [`Bearer ${KEY}x`, "wrong"],
    [`Bearer ${KEY.slice(0, -1)}`, "wrong"],
    ["Bearer x", "wrong"],
    [`Bearer ${"k".repeat(100_000)}`, "wrong"],
    [undefined, "missing"],
    ["", "missing"],
    ["Bearer ", "missing"],
    [`Basic ${KEY}`, "missing"],
    [KEY, "missing"],
    [`Bearer ${KEY} ${KEY}`, "missing"],
  ])("%s is %s", (header, verdict) => {
    expect(match(header)).toBe(verdict);
  });
});

/** The middleware by itself, so that addresses can be chosen. */
function door() {
  const clock = testClock();
  const check = requireKey(new Secret(KEY), clock);
  return {
    clock,
    knock(key: string | null, remoteAddress: string, forwarded?: string): GuardError | "in" {
      const headers = {
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...(forwarded === undefined ? {} : { "x-forwarded-for": forwarded }),
      };
      let entered = false;
      try {
        void check({ headers, socket: { remoteAddress } } as unknown as Request, {} as Response, () => void (entered = true));
      } catch (error) {
        if (GuardError.is(error)) return error;
        throw error;
      }
      if (!entered) throw new Error("neither in nor refused");
      return "in";
    },
  };
}

const code = (answer: GuardError | "in"): string => (answer === "in" ? "in" : answer.code);

describe("wrong keys", () => {
  test("five are 401, from the sixth on 403 for half an hour, even for the right one", () => {
    const { knock, clock } = door();
    const first = Array.from({ length: 5 }, () => knock("wrong", "10.0.0.1"));
    expect(first.map(code)).toEqual(Array(5).fill("unauthenticated"));
    const sixth = knock("wrong", "10.0.0.1");
    expect(sixth).toMatchObject({ code: "forbidden", status: 403, retryAfterMs: HALF_HOUR });
    clock.advance(60_000);
    expect(knock(KEY, "10.0.0.1")).toMatchObject({ code: "forbidden", retryAfterMs: HALF_HOUR - 60_000 });
    clock.advance(HALF_HOUR - 60_001);
    expect(code(knock(KEY, "10.0.0.1"))).toBe("forbidden");
    clock.advance(1);
    expect(knock(KEY, "10.0.0.1")).toBe("in");
  });

  test("of one address are not another's", () => {
    const { knock } = door();
    for (let i = 0; i < 9; i += 1) knock("wrong", "10.0.0.1");
    expect([code(knock("wrong", "10.0.0.1")), knock(KEY, "10.0.0.2")]).toEqual(["forbidden", "in"]);
  });

  test("cannot be blamed on others, nor hidden, by a forwarded header", () => {
    const { knock } = door();
    for (let i = 0; i < 6; i += 1) knock("wrong", "10.0.0.1", `10.0.0.${i + 2}`);
    expect([code(knock("wrong", "10.0.0.1", "10.9.9.9")), knock(KEY, "10.0.0.3")]).toEqual(["forbidden", "in"]);
  });

  test("are forgotten after the right one", () => {
    const { knock } = door();
    for (let i = 0; i < 5; i += 1) knock("wrong", "10.0.0.1");
    const { knock: other } = door();
    for (let i = 0; i < 4; i += 1) other("wrong", "10.0.0.1");
    expect(other(KEY, "10.0.0.1")).toBe("in");
    for (let i = 0; i < 5; i += 1) expect(code(other("wrong", "10.0.0.1"))).toBe("unauthenticated");
    expect(code(other("wrong", "10.0.0.1"))).toBe("forbidden");
  });

  test("are not what a missing key is", () => {
    const { knock } = door();
    for (let i = 0; i < 20; i += 1)
      expect(knock(null, "10.0.0.1")).toMatchObject({ code: "unauthenticated", headers: { "www-authenticate": "Bearer" } });
    expect(knock(KEY, "10.0.0.1")).toBe("in");
  });

  test("long ago do not count", () => {
    const { knock, clock } = door();
    for (let i = 0; i < 5; i += 1) knock("wrong", "10.0.0.1");
    clock.advance(HALF_HOUR);
    expect([code(knock("wrong", "10.0.0.1")), knock(KEY, "10.0.0.1")]).toEqual(["unauthenticated", "in"]);
  });

  test("of very many addresses are remembered for the latest ten thousand", () => {
    const { knock } = door();
    for (let i = 0; i < 6; i += 1) knock("wrong", "first");
    expect(code(knock(KEY, "first"))).toBe("forbidden");
    for (let i = 0; i < 9_999; i += 1) knock("wrong", `a${i}`);
    expect(code(knock(KEY, "first"))).toBe("forbidden");
    knock("wrong", "one more");
    expect(knock(KEY, "first")).toBe("in");
  });
});

describe("over a real socket", () => {
  test("the sixth wrong key is a problem with Retry-After, on this tree and on TokenGuard's API", async () => {
    const { ask, admin } = await management();
    for (let i = 0; i < 5; i += 1) expect((await ask(i % 2 ? "/health" : "/buckets/global", { key: "wrong" })).status).toBe(401);
    const { status, headers, body } = await ask("/health", { key: "wrong" });
    expect([status, headers.get("retry-after"), headers.get("x-should-retry"), headers.get("content-type")]).toEqual([
      403,
      "1800",
      "false",
      "application/problem+json; charset=utf-8",
    ]);
    expect(body).toMatchObject({ code: "forbidden", status: 403, title: "forbidden" });
    expect((await ask("/config/budget", { body: { scope: "global", capacity: 1 } })).status).toBe(403);
    expect(admin.calls).toEqual([]);
  });

  test("without a configured key there is no tree at all", async () => {
    const { ask } = await management(null);
    for (const key of [KEY, null, "", "undefined", "null"]) {
      const { status, body } = await ask("/health", { key });
      expect([status, body.code]).toEqual([404, "not_found"]);
    }
    expect((await ask("/config/budget", { body: { scope: "global", capacity: 1 } })).status).toBe(404);
  });
});
