import type { Redis } from "ioredis";

import { redisProcess, type RedisProcess } from "./redis-process.ts";

export interface RedisCluster {
  readonly masters: readonly RedisProcess[];
  /** For `new Cluster(...)`. */
  readonly nodes: readonly { readonly host: string; readonly port: number }[];
  /** Gives the slot of a key, with all that is in it, to the next master, while clients go on. Keys move a few at a time. Returns how many. */
  moveSlotOf(key: string): Promise<number>;
  stop(): Promise<void>;
}

const SLOTS = 16_384;
const FLAGS = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "yes"];

/** Masters on the loopback that share the slots among them. Resolves when each of them says that the cluster is complete. */
export async function redisCluster(size: number): Promise<RedisCluster> {
  const masters = await Promise.all(Array.from({ length: size }, () => redisProcess(FLAGS)));
  const clients = masters.map((master) => master.client());
  const stop = async (): Promise<void> => void (await Promise.all(masters.map((master) => master.stop())));
  try {
    for (const [index, client] of clients.entries()) {
      const from = Math.floor((index * SLOTS) / size);
      const to = Math.floor(((index + 1) * SLOTS) / size) - 1;
      await client.call("CLUSTER", "ADDSLOTSRANGE", from, to);
      await client.call("CLUSTER", "SET-CONFIG-EPOCH", index + 1);
    }
    for (const { port } of masters.slice(1)) await (clients[0] as Redis).call("CLUSTER", "MEET", "127.0.0.1", port);
    for (const client of clients) await whole(client, size);
  } catch (error) {
    await stop();
    throw error;
  }

  async function moveSlotOf(key: string): Promise<number> {
    const slot = Number(await (clients[0] as Redis).call("CLUSTER", "KEYSLOT", key));
    const ids = await Promise.all(clients.map(async (client) => String(await client.call("CLUSTER", "MYID"))));
    const table = String(await (clients[0] as Redis).call("CLUSTER", "NODES"));
    const from = ids.findIndex((id) => owns(table, id, slot));
    const to = (from + 1) % size;
    const [source, target] = [clients[from], clients[to]] as [Redis, Redis];
    await target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[from] as string);
    await source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to] as string);
    let moved = 0;
    for (;;) {
      const keys = (await source.call("CLUSTER", "GETKEYSINSLOT", slot, MOVED_AT_ONCE)) as string[];
      if (keys.length === 0) break;
      await source.call("MIGRATE", "127.0.0.1", (masters[to] as RedisProcess).port, "", 0, 5_000, "KEYS", ...keys);
      moved += keys.length;
    }
    for (const client of [target, source, ...clients]) await client.call("CLUSTER", "SETSLOT", slot, "NODE", ids[to] as string);
    return moved;
  }
  return { masters, nodes: masters.map(({ port }) => ({ host: "127.0.0.1", port })), moveSlotOf, stop };
}

/** Whether a line of CLUSTER NODES gives the slot to the master. */
function owns(table: string, id: string, slot: number): boolean {
  const line = table.split("\n").find((one) => one.startsWith(id)) ?? "";
  return line
    .split(" ")
    .slice(8)
    .some((range) => {
      const [first, last = first] = range.split("-").map(Number) as [number, number?];
      return slot >= first && slot <= last;
    });
}

const MOVED_AT_ONCE = 50;
const PATIENCE_MS = 20_000;
const LOOK_MS = 50;

async function whole(client: Redis, size: number): Promise<void> {
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    const info = String(await client.call("CLUSTER", "INFO"));
    if (/cluster_state:ok/.test(info) && info.includes(`cluster_known_nodes:${size}`) && info.includes(`cluster_slots_ok:${SLOTS}`)) return;
    if (performance.now() > until) throw new Error(`the cluster did not come together:\n${info}`);
    await new Promise((resolve) => void setTimeout(resolve, LOOK_MS));
  }
}
