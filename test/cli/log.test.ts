import { describe, expect, test } from "vitest";
import { serverLog } from "../../src/cli/log.ts";
import { GuardError } from "../../src/core/errors.ts";

/** A log and the lines that it wrote. */
function written(level = "info") {
  const lines: string[] = [];
  const log = serverLog(level, { write: (line: string) => void lines.push(line) });
  return { log, last: () => JSON.parse(lines.at(-1) ?? "{}") as Record<string, unknown>, lines };
}

describe("the server's log", () => {
  test("a warning tells what happened and why, in one line and without a stack", () => {
    const { log, last, lines } = written();
    const cause = new Error("read ECONNRESET");
    log.warn({ err: new GuardError("upstream_unreachable", "the provider hung up", { cause }), credential: "main" }, "its list could not be read");
    expect(last()).toMatchObject({
      level: 40,
      credential: "main",
      err: { type: "GuardError", message: "the provider hung up", code: "upstream_unreachable", cause: "read ECONNRESET" },
      msg: "its list could not be read",
    });
    log.warn({ err: new Error("status 500") }, "again");
    expect(last()["err"]).toEqual({ type: "Error", message: "status 500" });
    expect(lines.join()).not.toContain(" at ");
  });

  test("so does an error that has a code: it is a server's", () => {
    const { log, last } = written();
    log.error({ code: "QG_STORE_DEGRADED", err: new Error("read ECONNRESET") }, "the store cannot be used");
    expect(last()).toMatchObject({ level: 50, code: "QG_STORE_DEGRADED" });
    expect(last()["err"]).toEqual({ type: "Error", message: "read ECONNRESET" });
  });

  test("a fault of ours comes with its stack", () => {
    const { log, last } = written();
    log.error({ err: new Error("no such thing") }, "failed");
    expect(last()).toMatchObject({ level: 50, err: { message: "no such thing", stack: expect.stringContaining("log.test.ts") } });
  });

  test("what is below the level is not written, and keys never are", () => {
    const { log, last, lines } = written("warn");
    log.info({}, "not of interest");
    expect(lines).toEqual([]);
    log.warn({ request: { authorization: "Bearer secret" }, credential: { apiKey: "sk-secret", name: "main" } }, "odd");
    expect(last()).toMatchObject({ credential: { name: "main" } });
    expect(lines.join()).not.toContain("secret");
  });
});
