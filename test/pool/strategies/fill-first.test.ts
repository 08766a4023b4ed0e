import { expect, test } from "vitest";
import { fillFirst } from "../../../src/pool/strategies/fill-first.ts";
import { numberedTier, turns } from "./strategy-kit.ts";

test("always takes the first that can be used, and goes back to it at once", () => {
  const closed = ["", "", "1", "12", "2", ""];
  expect(turns(fillFirst(), numberedTier(3), closed.length, (turn) => closed[turn] as string)).toEqual(["1", "1", "2", "3", "1", "1"]);
});
