import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { MessageScanner } from "./message-scanner.ts";
import { notFoundWire, STREAM_MARK, workloads } from "./workloads.ts";

/** The provider: answers each chat request at once from prepared bytes, in one write, on a raw socket. */
export interface Upstream {
  readonly port: number;
  /** Chat requests answered so far. */
  readonly served: number;
  close(): void;
}

export async function upstream(): Promise<Upstream> {
  const sockets = new Set<Socket>();
  const json = wireOf("json");
  const sse = wireOf("sse");
  let served = 0;

  function answerFor(head: string, streams: boolean): Buffer {
    if (!head.startsWith("POST /v1/chat/completions ")) return notFoundWire;
    served += 1;
    return streams ? sse : json;
  }

  const server = createServer({ noDelay: true }, (socket) => {
    const scanner = new MessageScanner("requests");
    /** What has arrived of a request that came in several pieces. */
    let pieces: Buffer[] = [];
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    // A gateway that gives a connection up is its own business; the load generator counts what did not arrive.
    socket.on("error", () => socket.destroy());
    socket.on("data", (bytes: Buffer) => {
      let at = 0;
      while (at < bytes.length) {
        const next = scanner.scan(bytes, at, bytes.length);
        if (next === -1) break;
        const last = bytes.subarray(at, next);
        const request = pieces.length === 0 ? last : Buffer.concat([...pieces, last]);
        pieces = [];
        socket.write(answerFor(scanner.head, request.includes(STREAM_MARK)));
        at = next;
      }
      if (scanner.fault !== null) socket.destroy();
      else if (at < bytes.length) pieces.push(bytes.subarray(at));
    });
  });

  await listen(server);
  return {
    port: (server.address() as AddressInfo).port,
    get served() {
      return served;
    },
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

function wireOf(id: "json" | "sse"): Buffer {
  const workload = workloads.find((each) => each.id === id);
  if (workload === undefined) throw new Error(`no workload ${id}`);
  return workload.wire;
}

function listen(server: Server): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", 1024, resolve);
  });
}
