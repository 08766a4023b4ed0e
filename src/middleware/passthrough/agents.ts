/** The connections of the lane: kept alive and counted per credential, each one dialled under the egress guard. */
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import type { LookupFunction, Socket } from "node:net";
import type { Credential } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { Clock } from "../../core/time.ts";
import { connector } from "../../upstream/connector.ts";

/** Exchanges at one time with one credential: uploads last, and each has a connection of its own. */
const MOST_OPEN = 256;
const MOST_IDLE = 16;
/** Short: a request whose body streams cannot be repeated when the provider closes an idle connection at the moment it is used again. */
const IDLE_MS = 4_000;
/** Credentials may come and go. Of those that carry nothing the oldest makes room. */
const MAX_LANES = 1_000;
const WAIT_HINT_MS = 1_000;

export interface AgentsOptions {
  readonly clock: Clock;
  /** For name lookup, TCP and TLS together. */
  readonly connectTimeoutMs: number;
  /** Replaces `dns.lookup`; its answers are still checked. */
  readonly lookup?: LookupFunction | undefined;
  /** Certificates to trust besides the system's. */
  readonly ca?: string | Buffer | undefined;
}

/** One exchange's right to a connection. */
export interface Seat {
  readonly agent: HttpAgent;
  readonly isSecure: boolean;
  /** Once. */
  leave(): void;
}

export interface Agents {
  /** Throws `overloaded` when the credential has as many exchanges as it may. */
  enter(credential: Credential): Seat;
  /** Closes what is idle and what is being dialled. */
  close(): void;
}

interface Lane {
  /** Where it leads: a credential of the same name may be replaced by one with another address. */
  readonly origin: string;
  readonly allowPrivate: boolean;
  readonly agent: HttpAgent;
  readonly isSecure: boolean;
  open: number;
}

export function agents({ clock, connectTimeoutMs, lookup, ca }: AgentsOptions): Agents {
  const lanes = new Map<string, Lane>();
  const connecting = new Set<Socket>();

  function laneOf({ origin, allowPrivate }: Credential): Lane {
    const { protocol, hostname, port } = new URL(origin);
    const isSecure = protocol === "https:";
    const host = hostname.replace(/^\[|\]$/g, "");
    const connect = connector({
      host,
      allowPrivate,
      connectTimeoutMs,
      clock,
      connecting,
      ...(lookup ? { lookup } : {}),
      ...(ca === undefined ? {} : { ca }),
    });
    const settings = { keepAlive: true, maxFreeSockets: MOST_IDLE, timeout: IDLE_MS };
    const agent = isSecure ? new HttpsAgent(settings) : new HttpAgent(settings);
    agent.createConnection = (_options, done) => {
      // Where it goes is the credential's own word, whatever the request says.
      connect({ hostname: host, protocol, port }, (error, socket) => {
        if (error) done?.(error, undefined as never);
        else done?.(null, socket);
      });
      return undefined;
    };
    return { origin, allowPrivate, agent, isSecure, open: 0 };
  }

  function added(credential: Credential): Lane {
    for (const [name, { agent, open }] of lanes) {
      if (lanes.size < MAX_LANES) break;
      if (open > 0) continue;
      agent.destroy();
      lanes.delete(name);
    }
    const lane = laneOf(credential);
    lanes.delete(credential.name);
    lanes.set(credential.name, lane);
    return lane;
  }

  return {
    enter(credential) {
      const lane = lanes.get(credential.name);
      // What the old one carries goes on, and its idle connections end by themselves.
      const isSame = lane !== undefined && lane.origin === credential.origin && lane.allowPrivate === credential.allowPrivate;
      const entered = isSame ? lane : added(credential);
      if (entered.open >= MOST_OPEN) {
        throw new GuardError("overloaded", "too many transfers with this provider are under way; try again soon", { retryAfterMs: WAIT_HINT_MS });
      }
      entered.open += 1;
      return { agent: entered.agent, isSecure: entered.isSecure, leave: () => void (entered.open -= 1) };
    },
    close() {
      for (const socket of connecting) socket.destroy();
      for (const { agent } of lanes.values()) agent.destroy();
    },
  };
}
