import { describe, expect, test } from "vitest";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";
import { problemsOf } from "./options-kit.ts";

const credentialWith = (change: object) => ({ credentials: [{ name: "c", apiKey: "sk-abc", ...change }] });

describe("what may be sent", () => {
  test("per credential: any whole number from -1 on; 0 is nothing", () => {
    const { credentials } = resolveOptions(credentialWith({ rpm: 60, tpm: 0, maxConcurrent: 4, weight: 0.5, tier: "pro" }));
    expect(credentials[0]).toMatchObject({ rpm: 60, tpm: 0, maxConcurrent: 4, weight: 0.5, tier: "pro" });
  });

  test("per model: what is not said stays absent, so that the default holds", () => {
    const { models, server } = resolveOptions({
      server: { defaultModelsRpm: 7 },
      models: [{ name: "a" }, { name: "b", rpm: 0, tpm: -1 }],
    });
    expect(server.defaultModelsRpm).toBe(7);
    expect(models).toEqual([{ name: "a" }, { name: "b", rpm: 0, tpm: -1 }]);
    expect(Object.keys(models[0] ?? {})).toEqual(["name"]);
  });

  test.each<readonly [unknown, string]>([
    [credentialWith({ rpm: -2 }), "credentials[0].rpm: must be at least -1"],
    [credentialWith({ tpm: 1.5 }), "credentials[0].tpm: expected a whole number, got a number"],
    [credentialWith({ maxConcurrent: "4" }), "credentials[0].maxConcurrent: expected a number, got a string"],
    [credentialWith({ rpm: 1e13 }), "credentials[0].rpm: must be at most 1000000000000"],
    [credentialWith({ weight: 0 }), "credentials[0].weight: must be more than 0"],
    [credentialWith({ weight: 1_001 }), "credentials[0].weight: must be at most 1000"],
    [{ models: [{ name: "m", rpm: -2 }] }, "models[0].rpm: must be at least -1"],
    [{ models: [{ name: "m", tpm: null }] }, "models[0].tpm: expected a number, got nothing (null)"],
    [{ server: { defaultModelsRpm: -2 } }, "server.defaultModelsRpm: must be at least -1"],
    [{ server: { replaceV1Models: "yes" } }, "server.replaceV1Models: expected a boolean, got a string"],
  ])("%j is refused", (options, line) => expect(problemsOf(options)).toEqual([line]));
});

describe("router.strategy", () => {
  test.each(["round-robin", "fill-first", "weighted", "least-cost", "quota"] as const)("%s is taken", (strategy) =>
    expect(resolveOptions({ router: { strategy } }).router.strategy).toBe(strategy),
  );

  test("a weight without the strategy that reads it is no mistake", () =>
    expect(problemsOf({ ...credentialWith({ weight: 3 }), router: { strategy: "fill-first" } })).toEqual([]));

  test.each<readonly [unknown, string]>([
    [
      7,
      "router.strategy: expected one of round-robin, fill-first, weighted, least-cost, quota, or in code a function (candidates, call) => candidate",
    ],
    ["my own", "router.strategy: expected one of round-robin, fill-first, weighted, least-cost, quota"],
    ["wieghted", "router.strategy: expected one of round-robin, fill-first, weighted, least-cost, quota; did you mean weighted?"],
    ["least_cost", "router.strategy: expected one of round-robin, fill-first, weighted, least-cost, quota; did you mean least-cost?"],
  ])("%s is refused", (strategy, line) => expect(problemsOf({ router: { strategy } })).toEqual([line]));
});

describe("resilience.circuitBreaker", () => {
  const resolved = (circuitBreaker: NonNullable<GuardOptions["resilience"]>["circuitBreaker"]) =>
    resolveOptions({ resilience: { circuitBreaker } }).resilience.circuitBreaker;

  test.each([[undefined], [true], [{}]])("%j is five failures, thirty seconds, one probe", (option) =>
    expect(resolved(option)).toEqual({ failureThreshold: 5, openForMs: 30_000, halfOpen: 1 }),
  );

  test("false is off", () => expect(resolved(false)).toBeNull());

  test("takes numbers of its own", () =>
    expect(resolved({ failureThreshold: 2, openFor: "1m", halfOpen: 3 })).toEqual({ failureThreshold: 2, openForMs: 60_000, halfOpen: 3 }));

  test.each<readonly [unknown, string]>([
    [{ failureThreshold: 0 }, "resilience.circuitBreaker.failureThreshold: must be at least 1"],
    [{ openFor: "soon" }, "resilience.circuitBreaker.openFor: expected a duration"],
    [{ openFor: "30d" }, "resilience.circuitBreaker.openFor: must be between 1ms and 24d"],
    [{ halfOpen: 0 }, "resilience.circuitBreaker.halfOpen: must be at least 1"],
    [{ threshold: 5 }, "resilience.circuitBreaker.threshold: unknown option"],
    ["off", "resilience.circuitBreaker: expected true, false or { failureThreshold, openFor, halfOpen }"],
  ])("%j is refused", (circuitBreaker, line) => {
    const problems = problemsOf({ resilience: { circuitBreaker } });
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(line);
  });
});
