import { describe, expect, test } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import type { Plugin, PluginHost } from "../../src/core/plugin.ts";
import type { RecordStore } from "../../src/core/store.ts";
import { rejectionOf } from "../core/context-kit.ts";
import { hosted, pluginKit, settled } from "./plugin-kit.ts";

/** Notes when it begins and ends. */
const noting = (name: string, notes: string[], more: Partial<Plugin> = {}): Plugin => ({
  name,
  async setup() {
    notes.push(`${name} begins`);
    await settled();
    notes.push(`${name} is set up`);
    return () => void notes.push(`${name} is torn down`);
  },
  ...more,
});

describe("setting up", () => {
  test("one after another, in their order; torn down in reverse, once", async () => {
    const kit = pluginKit();
    const notes: string[] = [];
    const set = await kit.start([noting("a", notes), noting("b", notes), noting("c", notes)]);
    expect(notes).toEqual(["a begins", "a is set up", "b begins", "b is set up", "c begins", "c is set up"]);
    notes.length = 0;
    await Promise.all([set.close(), set.close()]);
    await set.close();
    expect(notes).toEqual(["c is torn down", "b is torn down", "a is torn down"]);
    expect(kit.control.asked).toEqual(["drop c", "drop b", "drop a"]);
    expect(kit.clock.pending()).toBe(0);
  });

  test.each([
    [
      "throws",
      () => {
        throw new Error("no such bot");
      },
    ],
    ["rejects", () => Promise.reject(new Error("no such bot"))],
  ])("one that %s stops the start by its name; those before it are torn down, those behind it never begin", async (_how, setup) => {
    const kit = pluginKit();
    const notes: string[] = [];
    let ticks = 0;
    const broken: Plugin = {
      name: "broken",
      setup(host) {
        host.every(10, () => void (ticks += 1));
        host.on("ban", () => {});
        return setup();
      },
    };
    const error = await rejectionOf(kit.start([noting("a", notes), noting("b", notes), broken, noting("d", notes)]));
    expect([error.code, error.message]).toEqual(["plugin_failed", "the plugin broken could not be set up: no such bot"]);
    expect((error.cause as Error).message).toBe("no such bot");
    expect(notes.slice(4)).toEqual(["b is torn down", "a is torn down"]);
    expect(kit.control.asked).toEqual(["drop broken", "drop b", "drop a"]);
    expect(kit.failures).toEqual(["broken setup"]);
    // What it had begun is over.
    kit.clock.advance(1_000);
    expect([ticks, kit.events.has("ban"), kit.clock.pending()]).toEqual([0, false, 0]);
  });

  test("one that hangs is given 30 s; what it opens later is closed", async () => {
    const kit = pluginKit();
    const notes: string[] = [];
    const gate = Promise.withResolvers<void>();
    const hanging: Plugin = {
      name: "hanging",
      async setup() {
        await gate.promise;
        return () => void notes.push("closed");
      },
    };
    const starting = rejectionOf(kit.start([noting("a", notes), hanging]));
    await settled();
    await settled();
    kit.clock.advance(29_999);
    await settled();
    expect(notes).toEqual(["a begins", "a is set up"]);
    kit.clock.advance(1);
    const error = await starting;
    expect(error.message).toMatch(/^the plugin hanging could not be set up: its setup did not end within 30 s/);
    expect(notes.at(-1)).toBe("a is torn down");
    gate.resolve();
    await settled();
    expect(notes.at(-1)).toBe("closed");
  });

  test("a name is only a name: the value keeps its own API and its this", async () => {
    const kit = pluginKit();
    class Counter implements Plugin {
      readonly name = "counter";
      #set = 0;
      setup(): void {
        this.#set += 1;
      }
      get set(): number {
        return this.#set;
      }
    }
    const counter = new Counter();
    await (await kit.start([counter])).close();
    expect(counter.set).toBe(1);
  });
});

describe("tearing down", () => {
  test("has a deadline of 5 s each, and what fails is logged and not thrown", async () => {
    const kit = pluginKit();
    const notes: string[] = [];
    const set = await kit.start([
      noting("last", notes),
      {
        name: "throws",
        setup: () => () => {
          throw new Error("cannot end");
        },
      },
      { name: "hangs", setup: () => () => new Promise<void>(() => {}) },
    ]);
    const closing = set.close();
    await settled();
    kit.clock.advance(4_999);
    await settled();
    expect(notes).not.toContain("last is torn down");
    kit.clock.advance(1);
    await closing;
    expect(notes).toContain("last is torn down");
    expect(kit.failures).toEqual(["hangs teardown", "throws teardown"]);
    expect(kit.logger.lines.map(({ fields }) => [fields.plugin, (fields.err as Error).message])).toEqual([
      ["hangs", "the plugin hangs did not end within 5 s and is left behind"],
      ["throws", "cannot end"],
    ]);
  });

  test("a timer that hangs costs 5 s, and the plugin is torn down all the same", async () => {
    const kit = pluginKit();
    const notes: string[] = [];
    const hanging = noting("a", notes, {
      setup(host) {
        host.every(1_000, () => new Promise<void>(() => void notes.push("a hangs")));
        return () => void notes.push("a is torn down");
      },
    });
    const set = await kit.start([hanging]);
    kit.clock.advance(1_000);
    const closing = set.close();
    await settled();
    kit.clock.advance(4_999);
    await settled();
    expect(notes).toEqual(["a hangs"]);
    kit.clock.advance(1);
    await closing;
    expect([notes, kit.failures]).toEqual([["a hangs", "a is torn down"], ["a teardown"]]);
    expect(String(kit.logger.lines[0]?.fields.err)).toContain("a timer of the plugin a did not end within 5 s");
  });

  test("of a store that minds the end of a watch, nobody's end is lost", async () => {
    const records = pluginKit().records;
    const minding: RecordStore = {
      ...records,
      watch: () => () => {
        throw new Error("the store is gone");
      },
    };
    const kit = pluginKit({ records: minding });
    const notes: string[] = [];
    const watching = noting("b", notes, {
      setup(host) {
        host.records.watch("", () => undefined);
        return () => {
          notes.push("b is torn down");
          host.records.watch("", () => undefined);
        };
      },
    });
    const set = await kit.start([noting("a", notes), watching]);
    notes.length = 0;
    await set.close();
    expect(notes).toEqual(["b is torn down", "a is torn down"]);
    expect([kit.failures, kit.control.asked]).toEqual([
      ["b watcher", "b watcher"],
      ["drop b", "drop a"],
    ]);
  });

  test("nothing of it runs any more when its own teardown is called, and its host still works there", async () => {
    const kit = pluginKit();
    const notes: string[] = [];
    const gate = Promise.withResolvers<void>();
    const set = await kit.start([
      {
        name: "worker",
        setup(host) {
          host.on("ban", () => void notes.push("heard"));
          host.route("/status", () => undefined);
          host.every(10, async () => {
            notes.push("work begins");
            await gate.promise;
            notes.push("work ends");
          });
          return async () => {
            notes.push("teardown");
            await host.records.put("last", "words");
            await host.secrets.put("last", "secret");
          };
        },
      },
    ]);
    kit.clock.advance(10);
    const closing = set.close();
    await settled();
    expect(notes).toEqual(["work begins"]);
    expect([kit.events.has("ban"), set.routes.at("/worker/status")]).toEqual([false, []]);
    gate.resolve();
    await closing;
    expect(notes).toEqual(["work begins", "work ends", "teardown"]);
    expect(await kit.records.get("plugins/worker/last")).toMatchObject({ value: "words" });
    expect(kit.failures).toEqual([]);
  });

  test("then its host refuses, also what was taken out of it before", async () => {
    const kit = pluginKit();
    const { host, set } = await hosted(kit, "gone");
    const { records, secrets, credentials, admin, every, fetch } = host;
    await set.close();
    const uses: readonly (readonly [string, (of: PluginHost) => unknown])[] = [
      ["records", () => records.get("a")],
      ["records by the host", ({ records: own }) => own.put("a", 1)],
      ["secrets", () => secrets.put("a", "b")],
      ["credentials", () => credentials.list()],
      ["admin", () => admin.bans()],
      ["every", () => every(10, () => {})],
      ["on", (of) => of.on("ban", () => {})],
      ["route", (of) => of.route("/a", () => undefined)],
      ["lock", (of) => of.lock("a", 1_000)],
      ["fetch", () => fetch("http://127.0.0.1:1/", { allow: ["http://127.0.0.1:1"] })],
      ["strategy", (of) => of.strategy("a", () => null)],
      ["provider", (of) => of.provider({ id: "a", extends: "openai" })],
    ];
    for (const [what, use] of uses) {
      const thrown = await Promise.resolve(host)
        .then(use)
        .then(
          () => undefined,
          (error: unknown) => error,
        );
      expect(GuardError.is(thrown) && thrown.message, what).toBe("the plugin gone was torn down, so its host does nothing any more");
    }
    host.logger.info({}, "a last line harms nobody");
    expect(await kit.records.list("")).toEqual([]);
  });

  test("what its teardown begins ends with it", async () => {
    const kit = pluginKit();
    let ticks = 0;
    const set = await kit.start([
      {
        name: "late",
        setup: (host) => () => {
          host.every(10, () => void (ticks += 1));
          host.on("ban", () => {});
          host.route("/late", () => undefined);
        },
      },
    ]);
    await set.close();
    kit.clock.advance(1_000);
    expect([ticks, kit.events.has("ban"), set.routes.at("/late/late"), kit.clock.pending()]).toEqual([0, false, [], 0]);
  });
});
