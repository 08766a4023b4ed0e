import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import { onTestFinished } from "vitest";
import type { OpenOptions } from "../../src/http/open.ts";
import { kit, type Kit } from "../core/context-kit.ts";

export interface Listening {
  readonly server: Server;
  readonly port: number;
  readonly url: string;
}

/** A real server on a free port of the loopback, gone with the test. */
export async function serve(handler: (req: IncomingMessage, res: ServerResponse) => void): Promise<Listening> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => {
      server.close(resolve);
    });
  });
  const { port } = server.address() as AddressInfo;
  return { server, port, url: `http://127.0.0.1:${port}` };
}

export interface RawClient {
  readonly socket: Socket;
  readonly received: () => string;
  /** Resolves once the server has sent this text; rejects when the connection closes without it. */
  until(text: string): Promise<string>;
  readonly closed: Promise<void>;
}

/** A client that sends exactly these bytes. */
export async function rawClient(port: number, text: string): Promise<RawClient> {
  const socket = connect(port, "127.0.0.1");
  await new Promise((resolve) => {
    socket.once("connect", resolve);
  });
  onTestFinished(() => void socket.destroy());
  let data = "";
  const waiting = new Set<() => void>();
  const closed = new Promise<void>((resolve) => {
    socket.once("close", () => {
      resolve();
      for (const look of waiting) look();
    });
  });
  socket.on("error", () => undefined);
  socket.setEncoding("latin1");
  socket.on("data", (chunk: string) => {
    data += chunk;
    for (const look of waiting) look();
  });
  socket.write(text);
  return {
    socket,
    received: () => data,
    closed,
    until: (wanted) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (data.includes(wanted)) resolve(data);
          else if (socket.closed) reject(new Error(`the connection closed without ${JSON.stringify(wanted)}: ${JSON.stringify(data.slice(0, 300))}`));
          else return;
          waiting.delete(look);
        };
        waiting.add(look);
        look();
      }),
  };
}

export function opening(more: Partial<OpenOptions> = {}, from: Kit = kit()): Kit & { readonly options: OpenOptions } {
  let ids = 0;
  return { ...from, options: { services: from.services, nextId: () => `id-${(ids += 1)}`, bodyLimit: 1_000, onOpen: () => undefined, ...more } };
}
