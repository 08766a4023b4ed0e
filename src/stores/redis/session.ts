import type { Cluster, Redis, RedisOptions } from "ioredis";

import type { RedisArgument } from "./link.ts";
import { plainError } from "./trouble.ts";

export type RedisClient = Redis | Cluster;

const CONNECT_TIMEOUT_MS = 1000;
const KEEP_ALIVE_MS = 10_000;

/**
 * How ioredis is used: it dials once, sends each command once and at once, or fails. Queues, deadlines, repeats and reconnects are ours, because
 * its own ones repeat what was already done, or wait for minutes. RESP2 is what versions 5 and 6 have in common.
 */
export const CLIENT_OPTIONS: RedisOptions = {
  connectionName: "quotaguard",
  connectTimeout: CONNECT_TIMEOUT_MS,
  commandTimeout: undefined,
  socketTimeout: undefined,
  keepAlive: KEEP_ALIVE_MS,
  noDelay: true,
  lazyConnect: false,
  enableOfflineQueue: false,
  // It asks INFO, which may be forbidden. The probe of the connection tells more.
  enableReadyCheck: false,
  enableAutoPipelining: false,
  autoResendUnfulfilledCommands: false,
  autoResubscribe: false,
  maxRetriesPerRequest: 0,
  retryStrategy: null,
  reconnectOnError: null,
  sentinelRetryStrategy: () => null,
  keyPrefix: "",
  stringNumbers: false,
  readOnly: false,
  monitor: false,
  protocol: 2,
  replyMapping: "legacy",
  disableClientInfo: true,
};

export interface SessionEvents {
  /** The handshake is done. */
  onOpen(): void;
  /** It ended by itself, or came to nothing: it is to be dropped. Not called after {@link Session.drop}. */
  onEnd(error: Error): void;
}

/** One connection (for a cluster: one client), from its dialling to its end. It is never revived: whoever needs another one dials anew. */
export interface Session {
  readonly client: RedisClient;
  /** Sent and not answered. */
  readonly unanswered: number;
  /** One of the two is called: with the reply, or with the server's error, or when the session ends. */
  send(name: string, args: readonly RedisArgument[], onReply: (reply: unknown) => void, onError: (error: unknown) => void): void;
  /** Ends it at once. What is unanswered is rejected. */
  drop(): void;
}

export function openSession(dial: () => RedisClient, { onOpen, onEnd }: SessionEvents): Session {
  let lastError: Error | undefined;
  let isOpen = false;
  let isOver = false;
  let unanswered = 0;
  const client = dial();

  const end = (error: Error): void => {
    if (isOver) return;
    isOver = true;
    onEnd(error);
  };
  const note = (error: unknown): void => {
    lastError = plainError(error);
    // A handshake that failed in part (SELECT) would go on with what it has: another database.
    if (!isOpen && !client.isCluster) end(lastError);
  };
  client.on("error", note);
  if (client.isCluster) client.on("node error", (error: unknown) => (lastError = plainError(error)));
  if (client.isCluster) client.on("+node", quietAsking);
  client.once("ready", () => {
    if (isOver) return;
    isOpen = true;
    onOpen();
  });
  client.once("end", () => end(lastError ?? new Error("Connection is closed.")));

  return {
    client,
    get unanswered() {
      return unanswered;
    },
    send(name, args, onReply, onError) {
      unanswered += 1;
      client.callBuffer(name, ...args).then(
        (reply) => {
          unanswered -= 1;
          onReply(reply);
        },
        (error: unknown) => {
          unanswered -= 1;
          onError(error);
        },
      );
    },
    drop() {
      isOver = true;
      disconnect(client);
    },
  };
}

/**
 * While a slot moves, ioredis says ASKING before a command and does not look at the answer. A connection that breaks just then would leave a rejection
 * that is nobody's, which ends the process.
 */
function quietAsking(node: Redis): void {
  const asking = node.asking.bind(node);
  node.asking = () => {
    const asked = asking();
    asked.catch(() => {});
    return asked;
  };
}

/** Without waiting for a peer that may be mute. */
function disconnect(client: RedisClient): void {
  const streams = "nodes" in client ? client.nodes().map((node) => node.stream) : [client.stream];
  client.disconnect();
  // Absent until the first dialling.
  for (const stream of streams as (Redis["stream"] | undefined)[]) stream?.destroy();
}
