import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import { afterAll, describe, it } from "vitest";
import { systemClock } from "../../src/core/time.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { storeContract } from "../../src/testing/store-contract/store-contract.ts";
import { testServer } from "../setup/test-server.ts";
import { forget } from "../stores/redis/limits-kit.ts";

const url = await testServer("redis");

describe.skipIf(url === undefined)("the contract on a Redis server", () => {
  const family = `contract-${randomUUID()}`;
  let partitions = 0;

  afterAll(async () => {
    const client = new Redis(url ?? "");
    await forget(client, `qg:{${family}-`);
    client.disconnect();
  });

  storeContract(
    { describe, it },
    (clock) =>
      redisStore(url ?? "", {
        partition: `${family}-${(partitions += 1)}`,
        // Deadlines and heartbeats are real ones: only what is stored follows the clock of the case.
        clock: { ...systemClock, now: clock.now },
        serverTime: clock.now,
      }),
    { name: "redis", strikesOnServerClock: true },
  );
});
