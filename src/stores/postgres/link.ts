import pg from "pg";

import { systemClock } from "../../core/time.ts";
import type { Database } from "../sql/schema.ts";
import { DeadlineError, isPassing, keepsConnection } from "./trouble.ts";

/** Operations that may wait for a connection of the pool. */
const MAX_WAITING = 1000;
/** How often a statement is sent again. */
const MOST_REPEATS = 3;
/** How long connections that are being closed may take to say goodbye. */
const GOODBYE_MS = 1000;

export type SqlRow = Readonly<Record<string, unknown>>;

export interface Answer {
  readonly rows: readonly SqlRow[];
  readonly rowCount: number;
  readonly command: string;
}

/** One connection of the pool, with a deadline over all that is done with it. */
export interface Session {
  query(text: string, values?: readonly unknown[]): Promise<Answer>;
  /** Gives the connection back; one whose state is not known is closed instead. */
  release(): void;
}

export interface PostgresLink {
  readonly schema: string;
  /** Host, port and database, as people may see them: without a password. */
  readonly place: string;
  /** A table of ours as SQL. */
  table(name: keyof Database): string;
  acquire(): Promise<Session>;
  /** One statement. With `onRepeat` it may be sent again when the connection broke or the server gave it up: only for what may happen twice. */
  query(text: string, values: readonly unknown[], onRepeat?: () => void): Promise<readonly SqlRow[]>;
  transact<T>(work: (session: Session) => Promise<T>): Promise<T>;
  /** A connection beside the pool, not yet connected. */
  client(): pg.Client;
  /** A statement on such a connection, within the deadline. */
  ask(client: pg.Client, text: string): Promise<Answer>;
  close(): Promise<void>;
}

export interface LinkOptions {
  /** Our own pool is made from a URL; a host's pool is used as it is and never closed. */
  readonly source: string | pg.Pool;
  readonly schema: string;
  readonly deadlineMs: number;
  readonly poolSize: number;
}

/**
 * The pool and the deadlines. A server that is frozen or unreachable never answers, and the driver would wait for ever: here every operation, the
 * wait for a connection included, ends within the deadline, and its connection is closed, since nobody knows what is still to come from it.
 * Deadlines run in real time, whatever clock the store is given.
 */
export function postgresLink({ source, schema, deadlineMs, poolSize }: LinkOptions): PostgresLink {
  const isOurs = typeof source === "string";
  const pool = isOurs ? ownPool(source, deadlineMs, poolSize) : source;
  const connected = new Set<pg.PoolClient>();
  const onConnect = (one: pg.PoolClient): void => void connected.add(one);
  const onRemove = (one: pg.PoolClient): void => void connected.delete(one);
  // An idle connection that breaks is replaced by the pool; without a listener its error would end the process.
  pool.on("error", ignore);
  if (isOurs) pool.on("connect", onConnect).on("remove", onRemove);

  function client(): pg.Client {
    const { options } = pool;
    // The password is not enumerable.
    return new pg.Client({ ...options, password: options.password, connectionTimeoutMillis: deadlineMs });
  }

  async function acquireUntil(untilMs: number): Promise<Session & { readonly isBroken: boolean }> {
    if (pool.waitingCount >= MAX_WAITING) throw new DeadlineError(`a connection (${MAX_WAITING} operations wait for one)`, 0);
    const coming = pool.connect();
    let connection: pg.PoolClient;
    try {
      connection = await within(coming, untilMs, "a connection");
    } catch (error) {
      coming.then(
        (late) => late.release(),
        () => {},
      );
      throw error;
    }
    connection.on("error", ignore);
    let isBroken = false;
    return {
      get isBroken() {
        return isBroken;
      },
      async query(text, values = []) {
        try {
          return await answer(connection, text, values, untilMs);
        } catch (error) {
          if (!keepsConnection(error)) isBroken = true;
          throw error;
        }
      },
      release() {
        connection.release(isBroken);
        connection.off("error", ignore);
      },
    };
  }

  async function once(text: string, values: readonly unknown[], untilMs: number): Promise<readonly SqlRow[]> {
    const session = await acquireUntil(untilMs);
    try {
      return (await session.query(text, values)).rows;
    } finally {
      session.release();
    }
  }

  return {
    schema,
    place: placeOf(client()),
    table: (name) => `${pg.escapeIdentifier(schema)}.${name}`,
    acquire: () => acquireUntil(performance.now() + deadlineMs),

    async query(text, values, onRepeat) {
      const untilMs = performance.now() + deadlineMs;
      for (let repeats = 0; ; repeats += 1) {
        try {
          return await once(text, values, untilMs);
        } catch (error) {
          if (onRepeat === undefined || repeats === MOST_REPEATS || !isPassing(error) || performance.now() >= untilMs) throw error;
          onRepeat();
          // When one connection breaks, others often did too: lets the pool notice that before it hands out the next one.
          await new Promise((resolve) => setImmediate(resolve));
        }
      }
    },

    async transact(work) {
      const session = await acquireUntil(performance.now() + deadlineMs);
      try {
        await session.query("begin");
        const result = await work(session);
        await session.query("commit");
        return result;
      } catch (error) {
        if (!session.isBroken) await session.query("rollback").catch(ignore);
        throw error;
      } finally {
        session.release();
      }
    },

    client,
    ask: (one, text) => answer(one, text, [], performance.now() + deadlineMs),

    async close() {
      if (!isOurs) return void pool.off("error", ignore);
      try {
        await within(pool.end(), performance.now() + GOODBYE_MS, "the end of the connections");
      } catch {
        for (const left of connected) left.connection.stream.destroy();
      }
    },
  };
}

/**
 * The driver leaves a login open that fails on this side (the server wants a password and none is given): its socket would keep the process alive until
 * the server gives up, after a minute.
 */
class OwnClient extends pg.Client {
  constructor(config?: string | pg.ClientConfig) {
    super(config);
    const { connection } = this;
    connection.on("error", () => connection.stream.destroy());
  }
}

function ownPool(connectionString: string, deadlineMs: number, poolSize: number): pg.Pool {
  return new pg.Pool({
    Client: OwnClient,
    fallback_application_name: "quotaguard",
    connectionString,
    max: poolSize,
    connectionTimeoutMillis: deadlineMs,
    // The server's own deadline: what we gave up must not go on there.
    statement_timeout: deadlineMs,
    idleTimeoutMillis: 30_000,
    keepAlive: true,
    // A store that nobody closed does not keep the process alive.
    allowExitOnIdle: true,
  });
}

const placeOf = ({ host, port, database }: pg.Client): string => `${host.startsWith("/") ? host : `${host}:${port}`}/${database ?? ""}`;

/** One statement on a connection, or a {@link DeadlineError}. */
export async function answer(client: pg.ClientBase, text: string, values: readonly unknown[], untilMs: number): Promise<Answer> {
  const { rows, rowCount, command } = await within(client.query<SqlRow>(text, [...values]), untilMs, "an answer");
  return { rows, rowCount: rowCount ?? 0, command };
}

const ignore = (): void => {};

/** Rejects with a {@link DeadlineError} when the time is over. What comes of the promise later goes unheard. */
function within<T>(promise: Promise<T>, untilMs: number, what: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const startedMs = performance.now();
    const timer = systemClock.timer(untilMs - startedMs, () => {
      // After a long block of the event loop the answer may be here already and only not be read.
      setImmediate(() => reject(new DeadlineError(what, performance.now() - startedMs)));
    });
    promise
      .then(resolve, reject)
      .finally(() => timer.cancel())
      .catch(ignore);
  });
}
