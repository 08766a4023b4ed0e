import { describe, expect, test } from "vitest";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";
import { problemsOf } from "./options-kit.ts";

const resolved = (idempotency: GuardOptions["idempotency"]) => resolveOptions(idempotency === undefined ? {} : { idempotency }).idempotency;

describe("idempotency", () => {
  test.each([[undefined], [true], [{}]])("%j is on, for a day and answers of 1 MB", (option) =>
    expect(resolved(option)).toEqual({ ttlMs: 86_400_000, maxBodyBytes: 1_048_576 }),
  );

  test("false is off", () => expect(resolved(false)).toBeNull());

  test("takes numbers and units", () => expect(resolved({ ttl: "30d", maxBody: "512kb" })).toEqual({ ttlMs: 2_592_000_000, maxBodyBytes: 524_288 }));

  test.each([
    [{ ttl: "31d" }, "idempotency.ttl: must be between 1s and 30d"],
    [{ maxBody: "33mb" }, "idempotency.maxBody: must be between 1b and 32mb"],
    [{ maxbody: 1 }, "idempotency.maxbody: unknown option; did you mean maxBody?"],
    ["on", "idempotency: expected true, false or { ttl, maxBody }"],
  ])("%j is refused", (option, problem) => expect(problemsOf({ idempotency: option })).toEqual([problem]));
});
