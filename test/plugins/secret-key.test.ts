import { chmodSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";
import { keyFile, secretKey } from "../../src/secret-key.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { endChildren, folder, ROOT, script, type Folder } from "../helpers/child.ts";

const GIVEN = "a-secret-key-of-the-operator-01";

let place: Folder;
beforeEach(() => {
  place = folder();
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const keyOf = (options: GuardOptions): string => secretKey(resolveOptions(options)).reveal();

describe("the key that encrypts at rest", () => {
  test("is the operator's, wherever anything is kept", () => {
    expect(keyOf({ secrets: { key: GIVEN } })).toBe(GIVEN);
    expect(keyOf({ secrets: { key: GIVEN }, ledger: { url: `sqlite:${join(place.path, "quota.db")}` } })).toBe(GIVEN);
    expect(readdirSync(place.path)).toEqual([]);
  });

  test("is one of this process where nothing outlives it", () => {
    const key = keyOf({});
    expect(key).toMatch(/^[0-9a-f]{64}$/);
    for (const options of [
      { store: { url: "sqlite::memory:" } },
      { store: memoryStore() },
      { store: { url: "memory" }, ledger: { url: "memory" } },
    ]) {
      expect(keyOf(options)).toBe(key);
    }
  });

  test("lies beside the database of the ledger, readable by its owner alone", () => {
    const file = join(place.path, "data/ledger.db");
    const key = keyOf({ store: { url: `sqlite:${join(place.path, "store.db")}` }, ledger: { url: `sqlite:${file}` } });
    expect(readFileSync(`${file}.key`, "utf8")).toBe(`${key}\n`);
    expect(statSync(`${file}.key`).mode & 0o777).toBe(0o600);
    expect(readdirSync(join(place.path, "data"))).toEqual(["ledger.db.key"]);
    expect(keyOf({ store: { url: `sqlite:${file}` } })).toBe(key);
  });

  test("is demanded for a store of the host's own, whose place nobody knows", () => {
    const options = { store: sqliteStore(join(place.path, "quota.db")) };
    expect(() => keyOf(options)).toThrow(ConfigError);
    expect(() => keyOf(options)).toThrow(/^secrets\.key: is required .* given as an object; set secrets\.key \(QUOTAGUARD_SECRET_KEY\)/);
    expect(keyOf({ ...options, secrets: { key: GIVEN } })).toBe(GIVEN);
  });
});

describe("the key file", () => {
  test.each([0o640, 0o604, 0o666])("is refused when others may read it (mode %o)", (mode) => {
    const path = join(place.path, "quota.db.key");
    keyFile(path);
    chmodSync(path, mode);
    expect(() => keyFile(path)).toThrow(new RegExp(`^secrets\\.key: others may read the key file .*mode ${mode.toString(8)}.*chmod 600`));
  });

  test.each(["", "short", "x".repeat(64), `${"a".repeat(64)}${"b".repeat(64)}`])("is refused when it holds no key: %j", (text) => {
    const path = join(place.path, "quota.db.key");
    writeFileSync(path, text, { mode: 0o600 });
    expect(() => keyFile(path)).toThrow(/holds no key of ours; restore it from a backup/);
    expect(readFileSync(path, "utf8")).toBe(text);
  });

  test("says what is in its way", () => {
    writeFileSync(join(place.path, "file"), "");
    expect(() => keyFile(join(place.path, "file/quota.db.key"))).toThrow(/^secrets\.key: the key file .* cannot be used \(ENOTDIR\)/);
    expect(() => keyFile(place.path)).toThrow(/^secrets\.key: /);
  });

  test("is the same for processes that start at one time", async () => {
    const path = join(place.path, "data", "quota.db.key");
    const code = `
      const { keyFile } = await import(${JSON.stringify(join(ROOT, "src/secret-key.ts"))});
      const alive = setInterval(() => {}, 1000);
      await new Promise((resolve) => {
        process.on("SIGUSR2", resolve);
        process.stdout.write("listening\\n");
      });
      process.stdout.write(keyFile(${JSON.stringify(path)}).reveal() + "\\n");
      clearInterval(alive);`;
    const ready = Array.from({ length: 4 }, () => script(code, { cwd: ROOT }));
    await Promise.all(ready.map((child) => child.line(/listening/)));
    for (const child of ready) child.kill("SIGUSR2");
    const keys = await Promise.all(ready.map((child) => child.line(/^[0-9a-f]{64}$/)));
    expect(new Set(keys).size).toBe(1);
    expect(readdirSync(join(place.path, "data"))).toEqual(["quota.db.key"]);
  });
});
