// What is held, charged and billed is the same with counters in Redis and rows in Postgres.
import { describe } from "vitest";
import { keepIn, onServers } from "../helpers/place.ts";
import { testServer } from "../setup/test-server.ts";

const [redis, postgres] = await Promise.all([testServer("redis"), testServer("postgres")]);

if (redis !== undefined && postgres !== undefined) keepIn(onServers(redis, postgres));

describe.skipIf(redis === undefined || postgres === undefined)("on servers", () => {
  describe("budgets", async () => void (await import("./budgets.test.ts")));
  describe("money", async () => void (await import("./money.test.ts")));
  describe("prices", async () => void (await import("./price-rules.test.ts")));
  describe("settlement", async () => void (await import("./settlement.test.ts")));
});
