import { describe, expect, test } from "vitest";
import express from "express";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";
import { problemsOf } from "./options-kit.ts";

type TrustProxy = NonNullable<NonNullable<GuardOptions["server"]>["trustProxy"]>;

const resolved = (trustProxy: TrustProxy) => resolveOptions({ server: { trustProxy } }).server.trustProxy;

describe("server.trustProxy", () => {
  test.each<readonly [TrustProxy, unknown]>([
    [false, false],
    [0, 0],
    [2, 2],
    ["2", 2],
    ["loopback", "loopback"],
    ["loopback, 10.0.0.0/8", "loopback, 10.0.0.0/8"],
    ["::1", "::1"],
    ["10.0.0.0/255.0.0.0", "10.0.0.0/255.0.0.0"],
    [
      ["uniquelocal", "fd00::/8"],
      ["uniquelocal", "fd00::/8"],
    ],
  ])("%j is taken, by Express too", (option, value) => {
    expect(resolved(option)).toEqual(value);
    expect(() => express().set("trust proxy", resolved(option))).not.toThrow();
  });

  test("true is refused: it lets a client choose its own address", () => {
    expect(problemsOf({ server: { trustProxy: true } })).toEqual([
      "server.trustProxy: believes any X-Forwarded-For, so every client could name its own address; give the number of proxies in front, or their addresses",
    ]);
  });

  const EXPECTED =
    "server.trustProxy: expected false, the number of proxies in front, or their addresses (an IP, a subnet such as 10.0.0.0/8, loopback, uniquelocal)";
  const ITEM = "is not an IP address, a subnet such as 10.0.0.0/8, loopback, linklocal or uniquelocal";
  test.each<readonly [unknown, string]>([
    [-1, "server.trustProxy: must be at least 0"],
    [1.5, EXPECTED],
    ["", EXPECTED],
    ["proxy.internal", EXPECTED],
    ["10.0.0.1/33", EXPECTED],
    ["10.0.0.1/8/8", EXPECTED],
    ["::1/129", EXPECTED],
    ["::1/255.0.0.0", EXPECTED],
    [null, EXPECTED],
    [["loopback", "everybody"], `server.trustProxy[1]: ${ITEM}`],
  ])("%j is refused", (trustProxy, line) => expect(problemsOf({ server: { trustProxy } })).toEqual([line]));
});
