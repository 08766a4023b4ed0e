import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { priceFiles, type PriceFiles } from "../src/price-files.ts";
import { testClock, type TestClock } from "../src/testing/clock.ts";
import { undiciTransport } from "../src/upstream/transport.ts";
import { keptLogger } from "./core/context-kit.ts";

const HOUR = 3_600_000;
const list = (perToken: number): string =>
  JSON.stringify({ "gpt-4o": { litellm_provider: "openai", input_cost_per_token: perToken, output_cost_per_token: perToken } });

let folder: string;
let clock: TestClock;
let logger: ReturnType<typeof keptLogger>;
let server: Server | undefined;
let open: PriceFiles | undefined;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "quotaguard-prices-"));
  clock = testClock();
  logger = keptLogger();
});
afterEach(async () => {
  await open?.close();
  server?.closeAllConnections();
  await new Promise((resolve) => (server ? server.close(resolve) : resolve(null)));
  [server, open] = [undefined, undefined];
  rmSync(folder, { recursive: true });
});

function files(...paths: readonly string[]): PriceFiles {
  open = priceFiles({ files: paths, refreshMs: HOUR, clock, logger, transport: () => undiciTransport({ connectTimeoutMs: 1_000 }) });
  return open;
}
function written(name: string, text: string): string {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
}
async function served(listener: RequestListener): Promise<string> {
  const started = createServer(listener);
  server = started;
  await new Promise<void>((resolve) => {
    started.listen(0, "127.0.0.1", resolve);
  });
  return `http://127.0.0.1:${(started.address() as AddressInfo).port}/prices.json?token=secret-canary`;
}
const inputOf = (sources: PriceFiles): unknown => sources.current[0]?.find("gpt-4o", "openai", 0)[0]?.price.inputPerMtok;

describe("a file", () => {
  test("is read at the start and again after each interval; the list is replaced only when something is new", async () => {
    const path = written("a.json", list(1e-6));
    const sources = files(path);
    expect(sources.current).toEqual([]);
    await sources.load();
    expect(inputOf(sources)).toBe("1e0");
    expect(sources.states()).toEqual([{ file: path, models: 1, readAt: clock.now(), problem: null }]);
    const before = sources.current;
    clock.advance(HOUR);
    await sources.load();
    expect(sources.current).toBe(before);
    written("a.json", list(2e-6));
    clock.advance(HOUR);
    await sources.load();
    expect(inputOf(sources)).toBe("2e0");
    expect(before[0]?.find("gpt-4o", null, 0)[0]?.price.inputPerMtok).toBe("1e0");
  });

  test("is read again by the interval alone", async () => {
    const sources = files(written("a.json", list(1e-6)));
    await sources.load();
    written("a.json", list(2e-6));
    clock.advance(HOUR - 1);
    expect(inputOf(sources)).toBe("1e0");
    clock.advance(1);
    await expect.poll(() => inputOf(sources)).toBe("2e0");
    written("a.json", list(3e-6));
    clock.advance(HOUR);
    await expect.poll(() => inputOf(sources)).toBe("3e0");
  });

  test("that breaks keeps its last prices, is complained of once, and is told when it is good again", async () => {
    const path = written("a.json", list(1e-6));
    const sources = files(path);
    await sources.load();
    const readAt = clock.now();
    for (const text of ["{", "{}", '{"gpt-4o":']) {
      written("a.json", text);
      clock.advance(HOUR);
      await sources.load();
      expect(inputOf(sources)).toBe("1e0");
    }
    expect(sources.states()).toEqual([{ file: path, models: 1, readAt, problem: "it is not JSON" }]);
    expect(logger.lines).toMatchObject([{ level: "warn", fields: { code: "QG_PRICE_FILE", file: path } }]);
    written("a.json", list(2e-6));
    await sources.load();
    expect([inputOf(sources), sources.states()[0]?.problem, logger.lines.at(-1)?.level]).toEqual(["2e0", null, "info"]);
  });

  test("that is not there, is a folder, or is too large does not keep the others from being read", async () => {
    const large = written("large.json", " ".repeat(32 * 1024 * 1024 + 1));
    const sources = files(join(folder, "gone.json"), folder, large, written("a.json", list(1e-6)));
    await sources.load();
    expect(inputOf(sources)).toBe("1e0");
    const problems = sources.states().map(({ problem }) => problem);
    expect(problems).toEqual([expect.stringContaining("ENOENT"), "it is not a file", expect.stringContaining("at most 33554432 are read"), null]);
  });
});

describe("a URL", () => {
  test("is asked, and its query is never shown", async () => {
    const sources = files(await served((_req, res) => res.end(list(1e-6))));
    await sources.load();
    expect(inputOf(sources)).toBe("1e0");
    expect(JSON.stringify([sources.states(), sources.current])).not.toContain("secret-canary");
  });

  test("that refuses, redirects, hangs up or never ends leaves the last prices", async () => {
    let listener: RequestListener = (_req, res) => void res.end(list(1e-6));
    const sources = files(await served((req, res) => listener(req, res)));
    await sources.load();
    const answers: readonly (readonly [RequestListener, string | RegExp])[] = [
      [(_req, res) => void res.writeHead(404).end(list(9e-6)), "it was answered with 404"],
      [(_req, res) => void res.writeHead(302, { location: "http://127.0.0.1:1/" }).end(), /redirect \(302\), which is never followed/],
      [(req) => void req.socket.destroy(), /./],
      [(_req, res) => res.writeHead(200, { "content-length": 99 }).flushHeaders(), /./],
    ];
    for (const [answer, problem] of answers) {
      listener = answer;
      let isOver = false;
      const loading = sources.load().then(() => (isOver = true));
      await expect.poll(() => (clock.advance(1_000), isOver)).toBe(true);
      expect(sources.states()[0]?.problem).toMatch(problem);
      await loading;
      expect(inputOf(sources)).toBe("1e0");
    }
    expect(logger.lines.filter(({ level }) => level === "warn")).toHaveLength(1);
    expect(JSON.stringify(logger.lines)).not.toContain("secret-canary");
  });

  test("whose name leads to this machine is not asked", async () => {
    let asked = 0;
    const url = await served((_req, res) => ((asked += 1), res.end(list(1e-6))));
    const { port } = new URL(url);
    const transport = undiciTransport({
      connectTimeoutMs: 1_000,
      lookup: ((_name: string, _options: unknown, callback: (...found: unknown[]) => void) =>
        callback(null, [{ address: "127.0.0.1", family: 4 }])) as never,
    });
    open = priceFiles({ files: [`http://prices.example:${port}/x`], refreshMs: HOUR, clock, logger, transport: () => transport });
    await open.load();
    expect([open.current, asked]).toEqual([[], 0]);
    expect(open.states()[0]?.problem).toContain("the address is private");
  });
});

test("closing ends what is being read, and nothing is read any more", async () => {
  const asked = Promise.withResolvers<void>();
  const sources = files(await served(() => asked.resolve()));
  const loading = sources.load();
  await asked.promise;
  await sources.close();
  await loading;
  expect([sources.current, logger.lines]).toEqual([[], []]);
});
