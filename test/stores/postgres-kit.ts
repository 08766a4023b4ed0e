import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

import pg from "pg";
import { onTestFinished } from "vitest";

import type { LedgerStore } from "../../src/core/store.ts";
import { postgresStore, type PostgresStoreOptions } from "../../src/stores/postgres/index.ts";
import { type ChaosTcp, chaosTcp, type WireFaults } from "../chaos/kit/chaos-tcp.ts";

/** A schema name of its own for a test; the schema goes when the test ends. */
export function ownSchema(url: string): string {
  const schema = `qg_${randomUUID().replaceAll("-", "")}`;
  onTestFinished(async () => {
    await sqlOn(url, `drop schema if exists ${schema} cascade`);
  });
  return schema;
}

/** One statement on a connection of its own. */
export async function sqlOn(url: string, text: string, values: readonly unknown[] = []): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(text, [...values])).rows;
  } finally {
    await client.end();
  }
}

/** A store that is ready, and closed when the test ends. */
export async function openedStore(url: string, options: PostgresStoreOptions): Promise<LedgerStore> {
  const store = postgresStore(url, options);
  onTestFinished(async () => {
    // A test that leaves the server broken has said what it wanted to say.
    await Promise.resolve(store.close()).catch(() => {});
  });
  await store.ready();
  return store;
}

export async function countOf(url: string, schema: string, table: string): Promise<number> {
  const [row] = await sqlOn(url, `select count(*) as n from ${schema}.quotaguard_${table}`);
  return Number(row?.["n"]);
}

/** The same server behind a wire that can be cut. */
export async function wired(url: string, faults: Partial<WireFaults> = {}): Promise<{ readonly wire: ChaosTcp; readonly url: string }> {
  const target = new URL(url);
  const wire = await chaosTcp({ host: target.hostname, port: Number(target.port || 5432) }, faults, 1);
  onTestFinished(() => wire.close());
  target.hostname = "127.0.0.1";
  target.port = String(wire.port);
  return { wire, url: target.href };
}

/** The same server as through a pooler that passes no notifications on: it hears of nobody who wants them. */
export async function unheard(url: string): Promise<string> {
  const target = new URL(url);
  const open = new Set<Socket>();
  const proxy = createServer((client) => {
    const server = connect({ host: target.hostname, port: Number(target.port || 5432) });
    // As long, so that it needs no other frame.
    client.on("data", (bytes) => server.write(Buffer.from(bytes.toString("latin1").replace('listen "', 'notify "'), "latin1")));
    server.pipe(client);
    for (const end of [client, server]) {
      open.add(end);
      end.on("error", () => {}).once("close", () => [client, server].forEach((each) => each.destroy()));
    }
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  onTestFinished(() => {
    for (const end of open) end.destroy();
    proxy.close();
  });
  const through = new URL(url);
  through.hostname = "127.0.0.1";
  through.port = String((proxy.address() as AddressInfo).port);
  return through.href;
}

/** A role of its own, without rights, on the test server. Returns the URL that logs in with it. */
export async function ownRole(url: string, settings = ""): Promise<{ readonly role: string; readonly url: string }> {
  const role = `qg_${randomUUID().replaceAll("-", "")}`;
  const password = randomUUID();
  await sqlOn(url, `create role ${role} login password '${password}' ${settings}`);
  onTestFinished(async () => {
    await sqlOn(url, `drop owned by ${role}`);
    await sqlOn(url, `drop role ${role}`);
  });
  const own = new URL(url);
  own.username = role;
  own.password = password;
  return { role, url: own.href };
}
