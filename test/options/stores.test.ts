import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { describeOptions } from "../../src/config/report.ts";
import { resolveOptions } from "../../src/options.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { problemsOf } from "./options-kit.ts";

const secrets = { key: "a-secret-key-for-tests-1" };
const resolved = (options: object) => resolveOptions({ secrets, ...options });

describe("store.url and ledger.url", () => {
  test.each<readonly [string, object]>([
    ["memory", { kind: "memory" }],
    ["sqlite:./a.db", { kind: "sqlite", path: "./a.db" }],
    ["sqlite:///a.db", { kind: "sqlite", path: "/a.db" }],
    ["redis://h", { kind: "redis", place: "h:6379" }],
    ["rediss://user:canary@h:7000/3", { kind: "redis", place: "h:7000/3" }],
  ])("the store %s", (url, store) => expect(resolved({ store: { url } }).store).toMatchObject(store));

  test.each<readonly [string, object]>([
    ["sqlite:./a.db", { kind: "sqlite", path: "./a.db" }],
    ["postgres://u:canary@h/db", { kind: "postgres", place: "h:5432/db" }],
    ["postgresql+asyncpg://h:1/db?sslmode=require", { kind: "postgres", place: "h:1/db" }],
  ])("the ledger %s", (url, ledger) => expect(resolved({ ledger: { url } }).ledger).toMatchObject(ledger));

  test.each<readonly [object, string]>([
    [{ store: { url: "postgres://h/db" } }, "store.url: Postgres keeps rows, not counters: name it in ledger.url"],
    [{ ledger: { url: "redis://h" } }, "ledger.url: Redis keeps counters, not rows: name it in store.url"],
    [{ store: { url: "redis://" } }, "store.url: expected memory, sqlite:<path> or redis://<host>:<port>"],
    [{ store: { url: "redis://:p#w@h" } }, "in its user and password, characters such as @ : / # % are written percent-encoded"],
    [{ ledger: { url: "postgres://u:p#w@h/db" } }, "in its user and password, characters such as @ : / # % are written percent-encoded"],
    [{ store: { url: "" } }, "store.url: is empty: leave it out, or give it a value; expected memory"],
    [{ store: { url: "redis" } }, "store.url: expected memory"],
    [{ store: { url: "sqlite:" } }, "store.url: expected memory"],
    [{ store: { url: "mongodb://h" } }, "store.url: expected memory"],
    [{ store: { url: "memory", nodes: 0 } }, "store.nodes: must be at least 1"],
    [{ store: { url: "memory", nodes: "many" } }, "store.nodes: expected auto or a whole number from 1 up"],
    [{ store: { url: "memory", node: 2 } }, "store.node: unknown option; did you mean nodes?"],
  ])("%j is refused", (options, line) => {
    const problems = problemsOf({ secrets, ...options });
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(line);
  });

  test("a spool is there for a Postgres unless it is switched off, and says what it holds", () => {
    const url = "postgres://h/db";
    const spoolOf = (ledger: object) => resolved({ ledger }).ledger;
    expect(spoolOf({ url })).toMatchObject({ spool: { path: "./data/spool", maxBytes: 268_435_456, maxTimeMs: 900_000 } });
    expect(spoolOf({ url, spool: { path: "/s", maxBytes: "1mb", maxTime: "1m" } })).toMatchObject({
      spool: { path: "/s", maxBytes: 1_048_576, maxTimeMs: 60_000 },
    });
    expect(spoolOf({ url, spool: false })).toMatchObject({ spool: null });
    expect(spoolOf({ url: "sqlite:a.db", spool: false })).toEqual({ kind: "sqlite", path: "a.db" });
    const rows = (ledger: object) =>
      describeOptions(resolved({ ledger })).flatMap(({ path, value }) => (path.startsWith("ledger.spool") ? [`${path} ${value}`] : []));
    expect(rows({ url })).toEqual(["ledger.spool.path ./data/spool", "ledger.spool.max_bytes 256mb", "ledger.spool.max_time 15m"]);
    expect(rows({ url, spool: false })).toEqual(["ledger.spool false"]);
  });

  test.each<readonly [object, string]>([
    [{ url: "sqlite:a.db", spool: {} }, "ledger.spool: is for a postgres:// ledger, which may be away"],
    [{ url: "memory", spool: { path: "./x" } }, "ledger.spool: is for a postgres:// ledger, which may be away"],
    [{ url: "postgres://h/db", spool: true }, "ledger.spool: expected false or { path, maxBytes, maxTime }"],
    [{ url: "postgres://h/db", spool: { maxTime: 10 } }, "ledger.spool.maxTime: "],
    [{ url: "postgres://h/db", spool: { maxBytes: 0 } }, "ledger.spool.maxBytes: must be between 1b"],
    [{ url: "postgres://h/db", spool: { path: "" } }, "ledger.spool.path: must not be empty"],
    [{ url: "postgres://h/db", spool: { maxSize: 1 } }, "ledger.spool.maxSize: unknown option"],
  ])("the ledger %j is refused", (ledger, line) => {
    const problems = problemsOf({ secrets, ledger });
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(line);
  });

  test("a password is shown nowhere", () => {
    const options = resolved({ store: { url: "redis://u:canary@h" }, ledger: { url: "postgres://u:canary@h/db" } });
    expect(inspect(options, { depth: 10 })).not.toContain("canary");
    const rows = describeOptions(options);
    expect(JSON.stringify(rows)).not.toContain("canary");
    expect(rows).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ path: "store.url", value: "redis://h:6379" }),
        expect.objectContaining({ path: "store.nodes", value: "auto" }),
        expect.objectContaining({ path: "ledger.url", value: "postgres://h:5432/db" }),
      ]),
    );
  });
});

describe("a server that several nodes share", () => {
  test.each(["redis://h", "rediss://h"])("%s needs secrets.key", (url) => {
    expect(problemsOf({ store: { url } })).toEqual([expect.stringContaining("secrets.key: is required because store.url names a server")]);
  });

  test("so does a ledger on one", () => {
    expect(problemsOf({ ledger: { url: "postgres://h/db" } })).toEqual([expect.stringContaining("secrets.key: is required because ledger.url")]);
  });

  test("a file on this machine does not", () => expect(problemsOf({ store: { url: "sqlite:./a.db" } })).toEqual([]));
});

test("store objects of a host stay themselves", () => {
  const store = memoryStore();
  const options = resolved({ store, ledger: store });
  expect(options.store).toEqual({ kind: "given", store });
  expect(options.nodes).toBe("auto");
  expect(options.ledger.kind === "given" && options.ledger.store).toBe(store);
});
