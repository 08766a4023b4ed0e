// A wire that can be cut: between a client and a server, in the ways that networks really break.
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

import { chaosSeed, random } from "./random.ts";

export interface WireFaults {
  /** How likely a reply is lost: the server has acted, the connection breaks before the client reads a byte of it. */
  readonly loseReply: number;
  /** How likely a reply is torn: a part of it arrives, then the connection breaks. */
  readonly tearReply: number;
  /** Added to each reply, ms, plus up to `jitterMs`. Replies of one connection keep their order. */
  readonly delayMs: number;
  readonly jitterMs: number;
  /** Connections stay open and nothing passes, in neither direction. What was swallowed is gone. */
  readonly blackHole: boolean;
  /** New connections are reset at once. */
  readonly refuse: boolean;
}

export interface ChaosTcp {
  readonly port: number;
  readonly seed: number;
  set(faults: Partial<WireFaults>): void;
  /** Resets every open connection. Returns how many there were. */
  cut(): number;
  /** Connections taken, replies lost or torn, and connections that are open now. */
  readonly counts: { readonly taken: number; readonly lost: number; readonly torn: number; readonly open: number };
  close(): Promise<void>;
}

const NO_FAULTS: WireFaults = { loseReply: 0, tearReply: 0, delayMs: 0, jitterMs: 0, blackHole: false, refuse: false };

/** Listens on a port of 127.0.0.1 and passes everything on to `target`. */
export async function chaosTcp(
  target: { readonly port: number; readonly host?: string },
  initial: Partial<WireFaults> = {},
  seed = chaosSeed(),
): Promise<ChaosTcp> {
  const chance = random(seed);
  const pairs = new Set<readonly [Socket, Socket]>();
  const counts = { taken: 0, lost: 0, torn: 0 };
  let faults: WireFaults = { ...NO_FAULTS, ...initial };

  const reset = ([client, server]: readonly [Socket, Socket]): void => {
    client.resetAndDestroy();
    server.resetAndDestroy();
  };

  const listener = createServer({ noDelay: true }, (client) => {
    counts.taken += 1;
    client.on("error", () => undefined);
    if (faults.refuse) return void client.resetAndDestroy();
    const server = connect({ host: target.host ?? "127.0.0.1", port: target.port, noDelay: true });
    server.on("error", () => undefined);
    const pair = [client, server] as const;
    pairs.add(pair);
    for (const end of pair) {
      end.once("close", () => {
        pairs.delete(pair);
        for (const other of pair) other.destroy();
      });
    }

    /** Replies that are on their way, first in, first out: timers alone would let a later one overtake. */
    const underWay: { readonly bytes: Buffer; readonly dueAt: number; readonly after?: () => void }[] = [];
    let isTorn = false;
    let timer: NodeJS.Timeout | undefined;
    const arrive = (): void => {
      timer = undefined;
      for (let next = underWay[0]; next; next = underWay[0]) {
        const waitMs = next.dueAt - performance.now();
        if (waitMs > 0) return void (timer = setTimeout(arrive, waitMs));
        underWay.shift();
        if (!client.destroyed && !faults.blackHole) client.write(next.bytes, next.after);
      }
    };
    const deliver = (bytes: Buffer, after?: () => void): void => {
      const delayMs = faults.delayMs + (faults.jitterMs > 0 ? chance.between(0, faults.jitterMs) : 0);
      underWay.push({ bytes, dueAt: performance.now() + delayMs, ...(after ? { after } : {}) });
      if (timer === undefined) arrive();
    };
    client.on("data", (bytes) => {
      if (!faults.blackHole) server.write(bytes);
    });
    server.on("data", (bytes) => {
      if (faults.blackHole || isTorn) return;
      if (chance.chance(faults.loseReply)) {
        counts.lost += 1;
        return reset(pair);
      }
      if (chance.chance(faults.tearReply)) {
        counts.torn += 1;
        isTorn = true;
        return deliver(bytes.subarray(0, Math.max(1, Math.floor(bytes.length / 2))), () => reset(pair));
      }
      deliver(bytes);
    });
  }).listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;

  return {
    port,
    seed,
    set(wanted) {
      faults = { ...faults, ...wanted };
    },
    cut() {
      const all = [...pairs];
      for (const pair of all) reset(pair);
      return all.length;
    },
    get counts() {
      return { ...counts, open: pairs.size };
    },
    async close() {
      listener.close();
      for (const pair of pairs) reset(pair);
      await once(listener, "close");
    },
  };
}
