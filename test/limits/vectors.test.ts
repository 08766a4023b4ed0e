import { describe, it } from "vitest";
import { limitScenes } from "../../src/testing/store-contract/limit-scenes.ts";
import { harnesses } from "./harness.ts";

describe.each(harnesses)("limits on %s", (_name, make) => {
  it.each(limitScenes.map((scene) => [scene.name, scene] as const))("%s", async (_what, scene) => {
    const h = await make();
    try {
      await scene.run(h);
    } finally {
      await h.close();
    }
  });
});
