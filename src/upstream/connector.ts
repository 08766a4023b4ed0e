import { connect as connectTcp, isIP, type LookupFunction, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { buildConnector } from "undici";
import type { Clock } from "../core/time.ts";
import { EgressError, guardedLookup, refusedHost } from "./egress.ts";

/** Long enough for a TCP handshake across the world: Node's own 250 ms makes distant hosts with several addresses unreachable. */
const ADDRESS_ATTEMPT_MS = 1_000;
const TCP_KEEP_ALIVE_MS = 60_000;

class ConnectTimeoutError extends Error {
  readonly code = "ETIMEDOUT";

  constructor(host: string, timeoutMs: number) {
    super(`no connection to ${host} within ${timeoutMs} ms (name, TCP and TLS together)`);
    this.name = "ConnectTimeoutError";
  }
}

export interface ConnectorOptions {
  readonly host: string;
  readonly allowPrivate: boolean;
  readonly connectTimeoutMs: number;
  readonly clock: Clock;
  readonly lookup?: LookupFunction;
  /** Certificates to trust besides the system's. */
  readonly ca?: string | Buffer;
  /** Sockets on their way; their owner destroys them when it closes. */
  readonly connecting: Set<Socket>;
}

/**
 * Opens the sockets of one origin. It replaces undici's connector for three reasons: the egress check belongs into the lookup, the timeout must
 * cover the name lookup as well, and it must follow the injected clock. Certificates are always checked.
 */
export function connector(options: ConnectorOptions): buildConnector.connector {
  const { host, clock, connectTimeoutMs, connecting, ca } = options;
  const lookup = guardedLookup(options);
  let session: Buffer | undefined;

  function open(hostname: string, port: number, secure: boolean): Socket {
    const target = { host: hostname, port, lookup, autoSelectFamily: true, autoSelectFamilyAttemptTimeout: ADDRESS_ATTEMPT_MS };
    // Larger reads than Node's 16 KiB; its types do not list the option, which net.Socket hands on to its stream.
    const plain = { ...target, highWaterMark: 65_536 };
    if (!secure) return connectTcp(plain);
    const name = isIP(hostname) === 0 ? { servername: hostname } : {};
    const socket = connectTls({ ...target, ...name, session, ALPNProtocols: ["http/1.1"], ...(ca === undefined ? {} : { ca }) });
    socket.on("session", (ticket) => {
      session = ticket;
    });
    return socket;
  }

  return function connect(target, callback) {
    const refused = refusedHost(target.hostname);
    if (refused !== null) {
      queueMicrotask(() => callback(new EgressError(refused), null));
      return;
    }
    const secure = target.protocol === "https:";
    const socket = open(target.hostname, Number(target.port) || (secure ? 443 : 80), secure);
    let settled = false;
    const settle = (error: Error | null): void => {
      if (settled) return;
      settled = true;
      timer.cancel();
      connecting.delete(socket);
      if (error) callback(error, null);
      else callback(null, socket);
    };
    const timer = clock.timer(connectTimeoutMs, () => socket.destroy(new ConnectTimeoutError(host, connectTimeoutMs)));
    connecting.add(socket);
    socket.setNoDelay(true).setKeepAlive(true, TCP_KEEP_ALIVE_MS);
    socket.once(secure ? "secureConnect" : "connect", () => settle(null));
    socket.on("error", settle);
    socket.once("close", () => settle(new Error("the socket was closed before it was connected")));
  };
}
