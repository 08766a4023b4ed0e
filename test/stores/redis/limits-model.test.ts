import { Redis } from "ioredis";
import { afterAll, describe, it } from "vitest";
import { concurrencyScenes, verbScenes } from "../../../src/testing/store-contract/limit-scenes.ts";
import { readingScenes } from "../../../src/testing/store-contract/reading-scenes.ts";
import { vectors } from "../../../src/testing/store-contract/vectors.ts";
import { compareWithOracle } from "../../limits/model.ts";
import { testServer } from "../../setup/test-server.ts";
import { redisHarness } from "./limits-kit.ts";

const url = await testServer("redis");

describe.skipIf(url === undefined)("limits in Redis", () => {
  const client = new Redis(url ?? "", { lazyConnect: true });
  afterAll(() => client.disconnect());

  const scenes = [
    ...vectors.map(({ id, trap, run }) => ({ name: `vector ${id}: not so: ${trap}`, run })),
    ...[...verbScenes, ...readingScenes, ...concurrencyScenes],
  ];
  it.each(scenes.map((scene) => [scene.name, scene] as const))("%s", async (_name, scene) => {
    const h = redisHarness(client);
    try {
      await scene.run(h);
    } finally {
      await h.close();
    }
  });

  it("agree with the oracle on every answer and every state", { timeout: 120_000 }, async () => {
    await compareWithOracle(() => redisHarness(client), { runs: 80, commands: 100 });
  });
});
