// One table of what may be wrong: who is told, how often, and with which words.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { diagnose, DIAGNOSTICS, guardLogger, warningLogger, type DiagnosticCode } from "../../src/core/diagnostics.ts";
import { ConfigError, GuardError } from "../../src/core/errors.ts";
import { ROOT } from "../helpers/child.ts";
import { keptLogger } from "./context-kit.ts";

type Warning = Error & { readonly code?: string; readonly detail?: string };

/** Process warnings of ours until the test ends, in order. Node tells them in the next tick. */
function warnings(): () => Promise<readonly Warning[]> {
  const heard: Warning[] = [];
  const hear = (warning: Warning): void => {
    if (warning.name === "QuotaGuardWarning") heard.push(warning);
  };
  process.on("warning", hear);
  onTestFinished(() => void process.off("warning", hear));
  return async () => {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    return heard;
  };
}

const sources = (folder: string): readonly string[] =>
  readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
    .map((entry) => join(entry.parentPath, entry.name));

describe("the table", () => {
  test("has every code that the sources use, and no other", () => {
    const used = new Set<string>();
    for (const file of sources(join(ROOT, "src"))) {
      if (file.endsWith("core/diagnostics.ts")) continue;
      for (const [, code] of readFileSync(file, "utf8").matchAll(/"(QG_[A-Z_]+)"/g)) used.add(code as string);
    }
    expect([...used].toSorted()).toEqual(Object.keys(DIAGNOSTICS).toSorted());
  });

  test("is what the documentation says, in its order", () => {
    const page = readFileSync(join(ROOT, "docs/diagnostics.md"), "utf8");
    const rows = [...page.matchAll(/^\| `(QG_[A-Z_]+)` \| (.+) \| (.+) \|$/gm)].map(([, code, wrong, help]) => [code, wrong, help]);
    expect(rows).toEqual(Object.entries(DIAGNOSTICS).map(([code, { wrong, help }]) => [code, wrong, help]));
  });

  test.each(Object.entries(DIAGNOSTICS))("%s says what to do", (_code, { wrong, help }) => {
    expect([wrong.length, help.length].every((length) => length > 10)).toBe(true);
    expect(wrong + help).not.toMatch(/[|\n]/);
  });
});

describe("a host with a logger", () => {
  test("that throws loses its lines, and the guard nothing", () => {
    const broken = (): never => {
      throw new Error("the disk is full");
    };
    const logger = guardLogger({ debug: broken, info: broken, warn: broken, error: broken });
    for (const level of ["debug", "info", "warn", "error"] as const) expect(() => logger[level]({}, "a line")).not.toThrow();
  });

  test("gets lines with the code and the help; what has no code is as it was", () => {
    const kept = keptLogger();
    const logger = guardLogger(kept);
    logger.warn({ code: "QG_REDIS_OOM", server: "redis://a" }, "no memory");
    logger.error({ code: "QG_STORE_DEGRADED" }, "away");
    logger.info({ code: "QG_STORE_BACK" }, "back");
    logger.warn({ code: "upstream_timeout" }, "a request");
    logger.debug({ a: 1 }, "detail");
    expect(kept.lines).toEqual([
      { level: "warn", fields: { code: "QG_REDIS_OOM", server: "redis://a", help: DIAGNOSTICS.QG_REDIS_OOM.help }, message: "no memory" },
      { level: "error", fields: { code: "QG_STORE_DEGRADED", help: DIAGNOSTICS.QG_STORE_DEGRADED.help }, message: "away" },
      { level: "info", fields: { code: "QG_STORE_BACK", help: DIAGNOSTICS.QG_STORE_BACK.help }, message: "back" },
      { level: "warn", fields: { code: "upstream_timeout" }, message: "a request" },
      { level: "debug", fields: { a: 1 }, message: "detail" },
    ]);
  });

  test("is told once per guard of what every request shows again, each case of it", () => {
    const kept = keptLogger();
    const [one, other] = [guardLogger(kept), guardLogger(kept)];
    for (const logger of [one, one, other]) {
      diagnose(logger, "QG_BODY_PARSED");
      diagnose(logger, "QG_TRUST_PROXY", {}, "one case");
      diagnose(logger, "QG_TRUST_PROXY", {}, "another case");
    }
    expect(kept.lines.map(({ message }) => message)).toEqual([
      DIAGNOSTICS.QG_BODY_PARSED.wrong,
      "one case",
      "another case",
      DIAGNOSTICS.QG_BODY_PARSED.wrong,
      "one case",
      "another case",
    ]);
  });
});

describe("a host without a logger", () => {
  test("hears diagnostics and failures as process warnings, each once; everything else is dropped", async () => {
    const heard = warnings();
    const logger = guardLogger(undefined);
    for (let i = 0; i < 3; i += 1) {
      logger.warn({ code: "QG_REDIS_EVICTION", policy: "allkeys-lru" }, "the server drops keys");
      logger.error({ requestId: `r${i}` }, "a request failed unexpectedly");
      logger.warn({ code: "upstream_timeout" }, "of one request");
      logger.warn({ err: new Error("x") }, "without a code");
      logger.info({ code: "QG_STORE_BACK" }, "back");
      logger.debug({}, "detail");
    }
    expect((await heard()).map(({ code, message, detail }) => ({ code, message, detail }))).toEqual([
      { code: "QG_REDIS_EVICTION", message: "the server drops keys (policy: allkeys-lru)", detail: DIAGNOSTICS.QG_REDIS_EVICTION.help },
      { code: undefined, message: "a request failed unexpectedly (requestId: r0)", detail: undefined },
    ]);
  });

  test("is told the reason of ours, and of others' errors name, code and place, but never their words", async () => {
    const heard = warnings();
    const secret = "sk-canary-in-an-error";
    const failed = (err: unknown) => warningLogger().error({ code: "QG_START_FAILED", err }, "no start");
    failed(new ConfigError(["limits[0].scope: unknown scope usr"]));
    failed(new GuardError("store_unavailable", "the store is away", { cause: new Error(secret) }));
    failed(Object.assign(new TypeError(`bad ${secret}`), { code: "ERR_INVALID_URL" }));
    failed(Object.assign(new Error(secret), { code: secret }));
    failed(secret);
    const told = await heard();
    expect(told.map(({ message }) => message)).toEqual([
      "no start: limits[0].scope: unknown scope usr",
      "no start: the store is away",
      "no start: TypeError ERR_INVALID_URL",
      "no start: Error",
      "no start: something that is no Error was thrown",
    ]);
    expect(told[2]?.detail).toContain("diagnostics.test.ts");
    expect(JSON.stringify(told.map(({ message, detail }) => [message, detail]))).not.toContain(secret);
  });

  test("hears of each mistake in its callbacks, not only of the first, and of diagnostics after a flood of them", async () => {
    const heard = warnings();
    const logger = warningLogger();
    const failed = (err: unknown): void => logger.error({ err }, "a request failed unexpectedly");
    for (const route of ["/a", "/b", "/a", "/b"]) failed(new ConfigError([`the cost of ${route} says nothing about usd`]));
    expect((await heard()).map(({ message }) => message)).toEqual([
      "a request failed unexpectedly: the cost of /a says nothing about usd",
      "a request failed unexpectedly: the cost of /b says nothing about usd",
    ]);
    const emit = vi.spyOn(process, "emitWarning").mockImplementation(() => undefined);
    onTestFinished(() => emit.mockRestore());
    for (let i = 0; i < 200; i += 1) failed(new ConfigError([`mistake ${i}`]));
    logger.error({ code: "QG_STORE_DEGRADED" }, "away");
    expect(emit.mock.calls.filter(([text]) => String(text) === "away")).toHaveLength(1);
  });

  test("a flood of different failures ends", () => {
    // Real ones would flood the test's own output.
    const emit = vi.spyOn(process, "emitWarning").mockImplementation(() => undefined);
    onTestFinished(() => emit.mockRestore());
    const logger = warningLogger();
    for (let i = 0; i < 1_000; i += 1) logger.error({}, `failure ${i}`);
    expect(emit).toHaveBeenCalledTimes(100);
  });

  test("codes are a type: a mistyped one does not compile", () => {
    // @ts-expect-error There is no such code.
    const wrong: DiagnosticCode = "QG_BODY_LOSST";
    expect(Object.keys(DIAGNOSTICS)).not.toContain(wrong);
  });
});
