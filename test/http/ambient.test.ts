import { EventEmitter, once } from "node:events";
import { describe, expect, test } from "vitest";
import type { Context } from "../../src/core/context.ts";
import { ambientRequests } from "../../src/http/ambient.ts";
import { contextWith, kit } from "../core/context-kit.ts";

const { services } = kit();
const request = (id: string): Context => contextWith(services, { id });

function switchedOn() {
  const ambient = ambientRequests();
  ambient.switchOn();
  return ambient;
}

describe("the request that code runs for", () => {
  test("is nobody's outside, and before anybody asked for it", () => {
    const ambient = ambientRequests();
    expect([ambient.isOn, ambient.current(), ambient.run(request("a"), () => ambient.current())]).toEqual([false, undefined, undefined]);
    ambient.switchOn();
    ambient.switchOn();
    expect([ambient.isOn, ambient.current()]).toEqual([true, undefined]);
  });

  test("is known across awaits, timers, ticks and emitters, and not outside", async () => {
    const ambient = switchedOn();
    const seen: (string | undefined)[] = [];
    const note = (): void => void seen.push(ambient.current()?.id);
    const emitter = new EventEmitter();
    const value = await ambient.run(request("a"), async () => {
      note();
      await Promise.resolve();
      note();
      await new Promise<void>((resolve) => setTimeout(() => (note(), resolve()), 0));
      await new Promise<void>((resolve) => process.nextTick(() => (note(), resolve())));
      emitter.on("x", note);
      queueMicrotask(() => emitter.emit("x"));
      await once(emitter, "x");
      return "done";
    });
    note();
    expect([value, seen]).toEqual(["done", ["a", "a", "a", "a", "a", undefined]]);
  });

  test("is each one's own, side by side and inside one another", async () => {
    const ambient = switchedOn();
    const ids = ["a", "b", "c"];
    const seen = await Promise.all(
      ids.map((id) =>
        ambient.run(request(id), async () => {
          await new Promise(setImmediate);
          const inner = await ambient.run(request(`${id}2`), async () => (await new Promise(setImmediate), ambient.current()?.id));
          return [inner, ambient.current()?.id];
        }),
      ),
    );
    expect(seen).toEqual(ids.map((id) => [`${id}2`, id]));
  });

  test("belongs to one guard: another does not know it", () => {
    const [one, other] = [switchedOn(), switchedOn()];
    one.run(request("a"), () => expect([one.current()?.id, other.current()]).toEqual(["a", undefined]));
  });

  test("survives what the request's own emitters tell later", () => {
    const ambient = switchedOn();
    const [req, res] = [new EventEmitter(), new EventEmitter()];
    const seen: unknown[] = [];
    ambient.enter(request("a"), [req, res], () => {
      req.on("end", (...args: unknown[]) => seen.push(ambient.current()?.id, ...args));
      res.on("close", () => seen.push(ambient.current()?.id));
    });
    // As a socket does, in a context of its own.
    expect([req.emit("end", 1, 2), res.emit("close"), res.emit("nobody listens")]).toEqual([true, true, false]);
    expect(seen).toEqual(["a", 1, 2, "a"]);
    expect(ambient.current()).toBeUndefined();
  });

  test("binds emitters once, however many parts a route has", () => {
    const ambient = switchedOn();
    const req = new EventEmitter();
    const ctx = request("a");
    ambient.enter(ctx, [req], () => {
      const { emit } = req;
      ambient.enter(ctx, [req], () => expect(req.emit).toBe(emit));
    });
  });
});

describe("switched on while a handler begins", () => {
  test("that handler's request is known from then on, and nothing of it is left behind", async () => {
    const ambient = ambientRequests();
    let inside: Promise<string | undefined> | undefined;
    ambient.enter(request("a"), [], () => {
      ambient.switchOn();
      inside = new Promise(setImmediate).then(() => ambient.current()?.id);
    });
    expect(ambient.current()).toBeUndefined();
    expect(await inside).toBe("a");
    expect(ambient.run(request("b"), () => ambient.current()?.id)).toBe("b");
  });

  test("also when it throws", () => {
    const ambient = ambientRequests();
    const failing = (): void =>
      ambient.run(request("a"), () => {
        ambient.switchOn();
        throw new Error("a bug of the host's");
      });
    expect(failing).toThrow("a bug of the host's");
    expect(ambient.current()).toBeUndefined();
  });
});
