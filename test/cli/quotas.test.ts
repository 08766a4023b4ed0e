import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { quotas } from "../../src/cli/quotas.ts";
import { aheadText, lengthText, momentText } from "../../src/cli/when.ts";
import type { CommonFlags } from "../../src/cli/output.ts";
import type { QuotaFact } from "../../src/core/quota-fact.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { endChildren, folder, quotaguard, serving, type Folder } from "../helpers/child.ts";
import { freePort } from "../setup/server-process.ts";

const ADMIN = "admin-key-for-tests-0001";
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

let place: Folder;
beforeEach(() => {
  place = folder();
  place.write("quotaguard.yaml", yaml());
});
afterEach(async () => {
  await endChildren();
  place.remove();
});

const yaml = (more = "", credentials = ["a", "b", "c"]): string => `store: { url: "sqlite:./quota.db" }
keys: [{ name: alice, key: qg-test-key-of-alice-0001 }]
credentials: [${credentials.map((name) => `{ name: ${name}, api_key: sk-upstream-${name}, base_url: "http://127.0.0.1:9" }`).join(", ")}]
${more}`;

type Stored = Pick<QuotaFact, "credential" | "group" | "remainingRatio" | "resetsAt" | "observedAt">;

async function known(...facts: readonly Stored[]): Promise<void> {
  const store = sqliteStore(`${place.path}/quota.db`);
  await store.ready();
  for (const { credential, group, ...fact } of facts) await store.records.put(`quota/${credential}/${group}`, { ...fact, source: "headers" });
  await store.close();
}

/** What it prints, in this process. */
async function run(flags: CommonFlags = {}, columns = 0): Promise<string> {
  const written: string[] = [];
  const stdout = vi.spyOn(process.stdout, "write").mockImplementation((text) => written.push(String(text)) > 0);
  const before = process.stdout.columns;
  process.stdout.columns = columns;
  try {
    expect(await quotas({ config: `${place.path}/quotaguard.yaml`, ...flags }, Date.now())).toBe(0);
  } finally {
    stdout.mockRestore();
    process.stdout.columns = before;
  }
  return written.join("");
}

describe("from the database", () => {
  test("the account that is nearest to its end first, its scarcest quota first, with bars, resets, age and source", async () => {
    const now = Date.now();
    const resetsAt = now + 3 * HOUR + 12 * MINUTE + 30_000;
    await known(
      { credential: "a", group: "requests", remainingRatio: 0.5, resetsAt, observedAt: now - 2 * MINUTE },
      { credential: "b", group: "weekly", remainingRatio: 1, resetsAt, observedAt: now },
      { credential: "b", group: "5h", remainingRatio: 0.04, resetsAt: null, observedAt: now - HOUR },
    );
    const lines = (await run()).trimEnd().split("\n");
    const bar = (full: number): string => "█".repeat(full) + "░".repeat(20 - full);
    expect(lines).toEqual([
      "no gateway answers, so this is what the database knows",
      "",
      "b  openai",
      expect.stringMatching(`^  5h +4 %  ${bar(1)}  critical  no reset known +1 h ago, headers 50 %$`),
      expect.stringMatching(`^  weekly +100 %  ${bar(20)} +in 3 h 12 m, .*\\d\\d:\\d\\d +\\d s ago, headers 100 %$`),
      "",
      "a  openai",
      expect.stringMatching(`^  requests +50 %  ${bar(10)} +in 3 h 12 m, .*\\d\\d:\\d\\d +2 m ago, headers 98 %$`),
      "",
      "nothing is known yet of c",
      expect.stringContaining("send a request"),
    ]);
  });

  test("in a terminal of 80 columns no line is longer, and there are bars", async () => {
    const now = Date.now();
    await known({ credential: "a", group: "requests", remainingRatio: 0.08, resetsAt: now + 3 * HOUR, observedAt: now - 2 * MINUTE });
    const printed = await run({}, 80);
    expect(Math.max(...printed.split("\n").map((line) => line.length))).toBeLessThanOrEqual(80);
    expect(printed).toMatch(/█░+ {2}high /);
  });

  test("a name that is longer than its place goes on below, and no name moves the cursor", async () => {
    const now = Date.now();
    await known(
      { credential: "a", group: `long ${"x".repeat(60)}\u001b[2J`, remainingRatio: 0.5, resetsAt: null, observedAt: now },
      { credential: "b", group: "short", remainingRatio: 0.9, resetsAt: null, observedAt: now },
    );
    const printed = await run({}, 80);
    expect(printed).not.toContain("\u001b");
    expect(printed).toMatch(/^b {2}openai\n {2}short /m);
  });

  test("in a narrow terminal, where names are broken anywhere, each quota stands below its own account", async () => {
    const now = Date.now();
    const groups = ["requests/gpt-4o", "tokens/gpt-4o", "requests/gpt-4o-mini"];
    await known(
      ...["a", "b"].flatMap((credential) =>
        groups.map((group, i) => ({ credential, group, remainingRatio: 0.1 * (i + 1), resetsAt: now + HOUR, observedAt: now })),
      ),
    );
    const parts = (await run({}, 45)).split(/^[ab] {2}openai\n/m).slice(1);
    expect(parts.map((part) => part.match(/ \d+ %/g)?.filter((each) => each !== " 100 %"))).toEqual([
      [" 10 %", " 20 %", " 30 %"],
      [" 10 %", " 20 %", " 30 %"],
    ]);
  });

  test("without anything known it says what to do; without credentials, too", async () => {
    expect(await run()).toMatch(/^nothing is known yet of a, b, c\n.*send a request, then look again\n$/m);
    place.write("quotaguard.yaml", yaml("", []));
    expect(await run()).toBe("there is no credential; name one under credentials in the configuration\n");
  });

  test("a store in memory keeps nothing, and it says so", async () => {
    place.write("quotaguard.yaml", yaml().replace("sqlite:./quota.db", "memory"));
    const { code, stderr } = await quotaguard(["quotas"], { cwd: place.path }).ended;
    expect([code, stderr]).toEqual([1, expect.stringContaining("no gateway answers")]);
  });
});

test("from the gateway that runs, as JSON too", async () => {
  const now = Date.now();
  await known({ credential: "b", group: "5h", remainingRatio: 0.12, resetsAt: now + HOUR, observedAt: now });
  const alone = JSON.parse(await run({ json: true })) as Record<string, unknown>;
  expect(alone).toMatchObject({ from: "database", quotas: [{ credential: "b", quotas: [{ group: "5h", level: "warning" }] }, {}, {}] });
  place.write("quotaguard.yaml", yaml(`server: { port: ${await freePort()} }\nmanagement: { key: ${ADMIN} }\n`));
  await serving([], { cwd: place.path });
  expect(JSON.parse(await run({ json: true }))).toMatchObject({ from: "gateway", quotas: [{ credential: "b" }, {}, {}] });
  expect(await run()).toMatch(/^as the running gateway knows it\n\nb {2}openai\n/);
});

describe("times", () => {
  test.each([
    [0, "0 s"],
    [59_000, "59 s"],
    [HOUR - 1, "59 m"],
    [3 * HOUR + 12 * MINUTE, "3 h 12 m"],
    [24 * HOUR, "1 d"],
    [76 * HOUR, "3 d 4 h"],
    [-5, "0 s"],
  ])("%i ms are %s", (ms, text) => {
    expect(lengthText(ms)).toBe(text);
  });

  test("a moment of today is its time, of this week its day, else its date", () => {
    const now = new Date(2026, 10, 22, 12).getTime();
    expect(aheadText(new Date(2026, 10, 22, 18, 5).getTime(), now)).toBe("in 6 h 5 m, 18:05");
    expect(momentText(new Date(2026, 10, 24, 9, 30).getTime(), now)).toBe("Tue 09:30");
    expect(momentText(new Date(2026, 11, 24).getTime(), now)).toBe("24 Dec");
  });
});
