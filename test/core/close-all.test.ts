import { expect, test } from "vitest";
import { closeAll } from "../../src/core/close-all.ts";

test("every step runs, in order, one after the other, and the first problem is thrown", async () => {
  const order: string[] = [];
  const step = (name: string, error?: Error) => async (): Promise<void> => {
    await Promise.resolve();
    order.push(name);
    if (error) throw error;
  };
  const late = (): never => {
    order.push("d");
    throw new Error("later");
  };
  await expect(closeAll([step("a"), step("b", new Error("first")), step("c"), late, step("e")])).rejects.toThrow("first");
  expect(order).toEqual(["a", "b", "c", "d", "e"]);
  await expect(closeAll([step("f"), () => undefined])).resolves.toBeUndefined();
});
