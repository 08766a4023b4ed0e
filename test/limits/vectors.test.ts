import { describe, it } from "vitest";
import { harnesses } from "./harness.ts";
import { vectors } from "./vectors.ts";

describe.each(harnesses)("limits on %s", (_name, make) => {
  it.each(vectors.map((vector) => [vector.id, vector.trap, vector] as const))("vector %i: not so: %s", (_id, _trap, vector) => {
    const h = make();
    try {
      vector.run(h);
    } finally {
      h.close();
    }
  });
});
