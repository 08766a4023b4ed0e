// A gateway behind a wire to its ledger, to be cut off and killed.
import { randomUUID } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished } from "vitest";
import { createGuard } from "quotaguard";
import type { FakeUpstream } from "quotaguard/testing";
import { keptLogger } from "../core/context-kit.ts";
import { gatewayOptions, KEY, UPSTREAM_KEY } from "../helpers/app.ts";
import { ROOT, script } from "../helpers/child.ts";
import { ownSchema, sqlOn, wired } from "../stores/postgres-kit.ts";
import { tempFolder } from "../stores/sqlite-kit.ts";
import type { ChaosTcp } from "../chaos/kit/chaos-tcp.ts";

export const SECRETS = { key: "a-secret-key-for-this-test-only" };

export interface Place {
  /** The server itself, without the wire. */
  readonly server: string;
  readonly wire: ChaosTcp;
  readonly url: string;
  readonly schema: string;
  readonly path: string;
}

export async function place(server: string): Promise<Place> {
  const schema = ownSchema(server);
  const { wire, url } = await wired(server);
  return { server, wire, schema, url: `${url}?schema=${schema}`, path: join(tempFolder(), "spool") };
}

export const ledgerOf = ({ url, path }: Place) => ({ url, spool: { path } });
export const files = (path: string): string[] => (existsSync(path) ? readdirSync(path) : []);
export const goAway = ({ wire }: Place): void => {
  wire.set({ refuse: true });
  wire.cut();
};

interface StoredRow {
  readonly id: string;
  readonly request_id: string;
  readonly state: string;
  readonly billed_nano_usd: string | null;
}

export const rowsOf = async ({ server, schema }: Place): Promise<readonly StoredRow[]> =>
  (await sqlOn(server, `select id, request_id, state, billed_nano_usd from ${schema}.quotaguard_ledger order by id`)) as unknown as StoredRow[];

const gatewayProcess = (at: Place, upstream: string): string => `
  import { createServer } from "node:http";
  import { createGuard } from "quotaguard";
  const guard = createGuard({
    auth: { keys: [{ name: "alice", key: "${KEY}", scopes: { user: "alice" } }] },
    credentials: [{ name: "main", provider: "openai", apiKey: "${UPSTREAM_KEY}", baseUrl: "${upstream}" }],
    ledger: ${JSON.stringify(ledgerOf(at))},
    secrets: ${JSON.stringify(SECRETS)},
  });
  const handle = guard.handler();
  await guard.ready();
  const server = createServer((req, res) => handle(req, res, () => res.writeHead(404).end()));
  server.listen(0, "127.0.0.1", () => console.log("port " + server.address().port));
`;

/** Kills a gateway under load while its ledger is away, and the next one while it writes what was kept, so many times: each request has one row. */
export async function killedWhileAway(at: Place, upstream: FakeUpstream, rounds: number): Promise<void> {
  const answered = new Set<string>();
  async function started(): Promise<{ kill(): Promise<void>; readonly url: string }> {
    const child = script(gatewayProcess(at, upstream.url), { cwd: ROOT });
    const url = `http://127.0.0.1:${(await child.line(/^port \d+$/)).slice(5)}`;
    return {
      url,
      async kill() {
        child.kill("SIGKILL");
        await child.ended;
      },
    };
  }
  /** Asks until the process is gone. */
  async function worker(url: string): Promise<void> {
    for (;;) {
      const id = randomUUID();
      try {
        const response = await fetch(`${url}/v1/chat/completions`, {
          method: "POST",
          headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json", "x-request-id": id },
          body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] }),
        });
        await response.text();
        if (response.status === 200) answered.add(id);
      } catch {
        return;
      }
    }
  }
  for (let round = 0; round < rounds; round += 1) {
    const first = await started();
    const load = Promise.all(Array.from({ length: 8 }, async () => worker(first.url)));
    const before = answered.size;
    await expect.poll(() => answered.size, { timeout: 10_000 }).toBeGreaterThan(before + 10);
    goAway(at);
    await expect.poll(() => answered.size, { timeout: 10_000 }).toBeGreaterThan(before + 100);
    await first.kill();
    await load;
    expect(files(at.path)).toHaveLength(1);
    at.wire.set({ refuse: false, delayMs: round * 20 });
    // In the middle of its replay: rows are going over, and their file is still there.
    const second = await started();
    await second.kill();
    at.wire.set({ delayMs: 0 });
  }
  const last = createGuard({ ...gatewayOptions(upstream), ledger: ledgerOf(at), secrets: SECRETS, logger: keptLogger() });
  onTestFinished(() => last.close());
  await last.ready();
  await expect.poll(() => files(at.path), { timeout: 10_000 }).toEqual([]);
  await expect.poll(async () => (await sqlOn(at.server, `select from ${at.schema}.quotaguard_intent`)).length, { timeout: 10_000 }).toBe(0);
  const rows = await rowsOf(at);
  const ids = rows.map(({ request_id: id }) => id);
  expect(new Set(ids).size).toBe(ids.length);
  expect([...answered].filter((id) => !ids.includes(id))).toEqual([]);
  // A request that reached the provider has its row, whether its client got the answer or not; nobody is charged for more.
  expect(ids.length).toBeGreaterThanOrEqual(upstream.log.length);
  const known = new Set(rows.filter(({ state }) => state === "settled").map(({ request_id: id }) => id));
  // Only ends of the last moment may be unknown: those that no disk and no database had yet.
  expect([...answered].filter((id) => !known.has(id)).length).toBeLessThan(rounds * 8 * 2);
}
