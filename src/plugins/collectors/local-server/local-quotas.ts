/**
 * What Antigravity's app knows about its own account, asked from the server that runs beside it: for an account whose provider says nothing, because its
 * token has ended or its endpoints have moved. Only a server that says to be logged in as that account counts.
 */
import { spawn, type ChildProcess } from "node:child_process";
import type { Credential, QuotaReading } from "../../../core/credential.ts";
import type { Logger } from "../../../core/logger.ts";
import type { Secret } from "../../../core/secret.ts";
import type { Clock } from "../../../core/time.ts";
import { readModels, readSummary } from "../antigravity.ts";
import { fieldsOf, firstOf, isFields, rowsOf, textOf, type Fields } from "../fields.ts";
import { callLoopback, isListening, type LoopbackServer } from "./loopback.ts";
import type { LocalServer, Machine } from "./servers.ts";

const SERVICE = "/exa.language_server_pb.LanguageServerService";
const METADATA = { metadata: { ideName: "antigravity", extensionName: "antigravity" } };
/** For all servers and ports together. */
const MOST_MS = 10_000;
const LOOK_AGAIN_MS = 500;
/** For what was started to end by itself; a plugin's end may take no more than 5 s. */
const END_MS = 2_000;
const ENDED_AGAIN_MS = 50;

export interface LocalQuotasOptions {
  readonly port: number | null;
  readonly csrf: Secret | null;
  /** Starts the app; null = nothing is ever started. */
  readonly startCmd: string | null;
  readonly startTimeoutMs: number;
}

export interface LocalQuotas {
  /** The longest that {@link read} takes, ms. */
  readonly mostMs: number;
  /** Null = no server of this account, or it says nothing. Never rejects. */
  read(credential: Credential, nowMs: number): Promise<readonly QuotaReading[] | null>;
  /** Ends what was started. */
  close(): Promise<void>;
}

export interface LocalQuotasParts {
  readonly options: LocalQuotasOptions;
  readonly machine: Machine;
  readonly clock: Clock;
  readonly logger: Logger;
}

export function localQuotas({ options, machine, clock, logger }: LocalQuotasParts): LocalQuotas {
  const { port, csrf, startCmd, startTimeoutMs } = options;
  const ending = new AbortController();
  let started: ChildProcess | undefined;
  let starting: Promise<void> | undefined;

  async function servers(): Promise<readonly LocalServer[]> {
    if (port !== null && csrf) return (await isListening(port, clock)) ? [{ ports: [port], csrf: csrf.reveal() }] : [];
    const found = await machine.servers();
    const there = port === null ? found : found.filter(({ ports }) => ports.includes(port)).map((server) => ({ ...server, ports: [port] }));
    return csrf ? there.map((server) => ({ ...server, csrf: csrf.reveal() })) : there;
  }

  const wait = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const timer = clock.timer(ms, done);
      ending.signal.addEventListener("abort", done, { once: true });
      function done(): void {
        timer.cancel();
        ending.signal.removeEventListener("abort", done);
        resolve();
      }
    });

  /** Once: whoever has closed the app since then has meant it. */
  async function startApp(command: string): Promise<void> {
    logger.info({}, "no server of Antigravity runs: start_cmd is run");
    // A group of its own, so that all of it can be ended.
    started = spawn(command, { shell: true, stdio: "ignore", detached: true });
    const { pid } = started;
    started.on("error", (error) => logger.warn({ err: error }, "start_cmd could not be run"));
    // Once nobody is of its group any more, its number may be a stranger's.
    started.on("exit", () => {
      if (pid !== undefined && !endGroup(pid, 0)) started = undefined;
    });
    started.unref();
    const until = clock.monotonic() + startTimeoutMs;
    while (!ending.signal.aborted && clock.monotonic() < until && (await servers()).length === 0) await wait(LOOK_AGAIN_MS);
  }

  async function runningServers(): Promise<readonly LocalServer[]> {
    const found = await servers();
    if (found.length > 0 || startCmd === null || ending.signal.aborted) return found;
    await (starting ??= startApp(startCmd));
    return servers();
  }

  async function read({ provider, email }: Credential, nowMs: number): Promise<readonly QuotaReading[] | null> {
    if (provider !== "antigravity" || email === undefined) return null;
    const found = await runningServers();
    const late = new AbortController();
    const timer = clock.timer(MOST_MS, () => late.abort());
    const signal = AbortSignal.any([ending.signal, late.signal]);
    try {
      for (const { ports, csrf: token } of found) {
        const known = await readFrom({ ports, csrf: token }, email, nowMs, signal);
        if (known) return known;
      }
      return null;
    } finally {
      timer.cancel();
    }
  }

  async function readFrom(server: LocalServer, email: string, nowMs: number, signal: AbortSignal): Promise<readonly QuotaReading[] | null> {
    for (const at of server.ports) {
      for (const scheme of ["https", "http"] as const) {
        const to: LoopbackServer = { scheme, port: at, csrf: server.csrf };
        const ask = (method: string): Promise<Fields | null> => callLoopback(to, `${SERVICE}/${method}`, METADATA, clock, signal);
        const before = userOf(await ask("GetUserStatus"));
        if (!before) continue;
        if (!isOf(before, email)) return null;
        const summary = readSummary((await ask("RetrieveUserQuotaSummary")) ?? {}, nowMs);
        // Somebody else may have logged in between.
        const after = userOf(await ask("GetUserStatus"));
        if (!after || !isOf(after, email)) return null;
        const readings = summary.length > 0 ? summary : readModels({ models: modelsOf(after) }, nowMs);
        return readings.length > 0 ? readings : null;
      }
    }
    return null;
  }

  return {
    mostMs: MOST_MS + (startCmd === null ? 0 : startTimeoutMs + LOOK_AGAIN_MS),
    read: (credential, nowMs) => read(credential, nowMs).catch(() => null),
    async close() {
      ending.abort();
      await starting?.catch(() => undefined);
      const pid = started?.pid;
      if (pid === undefined || !endGroup(pid, "SIGTERM")) return;
      // The timers alone would let the process end before it.
      started?.ref();
      const until = clock.monotonic() + END_MS;
      while (clock.monotonic() < until && endGroup(pid, 0)) await pause(clock, ENDED_AGAIN_MS);
      endGroup(pid, "SIGKILL");
    },
  };
}

function userOf(body: Fields | null): Fields | null {
  const user = firstOf(body ?? {}, "userStatus") ?? fieldsOf(body?.response).userStatus;
  return isFields(user) ? user : null;
}

const isOf = (user: Fields, email: string): boolean => textOf(user.email).trim().toLowerCase() === email.toLowerCase();

/** Models by their names, as the older servers list them. */
function modelsOf(user: Fields): Fields {
  const listed = rowsOf(fieldsOf(user.cascadeModelConfigData).clientModelConfigs);
  return Object.fromEntries(
    listed.map((model) => [[textOf(fieldsOf(model.modelOrAlias).model), textOf(model.label)].join(" ").replace(/[^A-Za-z0-9.]+/g, "-"), model]),
  );
}

/** Its shell may have ended long ago: what it started in the background is of the same group. False = nobody of it is left. */
function endGroup(leader: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-leader, signal);
  } catch {
    return false;
  }
}

const pause = (clock: Clock, ms: number): Promise<void> => new Promise((resolve) => void clock.timer(ms, resolve));
