/** Commands that change what a gateway keeps: by the one that runs, else in its database. */
import express from "express";
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { silentLogger } from "../core/logger.ts";
import { Secret } from "../core/secret.ts";
import { systemClock } from "../core/time.ts";
import { createGuard } from "../guard.ts";
import { managementRouter } from "../management/router.ts";
import { resolveOptions } from "../options.ts";
import type { ResolvedOptions } from "../options/resolved.ts";
import { CommandError, EXIT_FAILED, EXIT_USAGE, type CommonFlags } from "./output.ts";
import { serverConfig } from "./server-config.ts";

const PROBE_MS = 2_000;
const CALL_MS = 30_000;

export interface Operator {
  /** Who answers. */
  readonly place: "gateway" | "database";
  /** The answer of a management route. Rejects with what it refused. */
  ask(method: string, path: string, body?: object): Promise<Record<string, unknown>>;
}

/** Where a command's question goes, as the configuration says. `keeps` is what must outlive the command when no gateway runs. */
export async function operate(flags: CommonFlags, keeps: "store" | "ledger", work: (operator: Operator) => Promise<number>): Promise<number> {
  const config = serverConfig({ path: flags.config });
  const options = resolveOptions(config);
  const running = await runningGateway(options);
  if (running) return work(running);
  if (placeKept(options, keeps) === "memory") {
    throw new CommandError(
      `${keeps}.url: is memory, and no gateway answers at ${urlOf(options)}: start it with management.key set, or let a database keep this`,
      EXIT_FAILED,
    );
  }
  const guard = createGuard({ ...config, monitoring: { prometheusEnabled: false }, logger: silentLogger });
  const key = new Secret(randomBytes(24).toString("hex"));
  const app = express();
  app.use(managementRouter({ admin: guard.admin, key, path: "", clock: systemClock, logger: silentLogger }));
  const server = createServer(app);
  try {
    await guard.ready();
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      // Nobody else has the key, and it ends with the command.
      server.listen(0, "127.0.0.1", resolve);
    });
    return await work(operatorAt(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, key, "database"));
  } finally {
    server.close();
    server.closeAllConnections();
    await guard.close();
  }
}

function placeKept({ store, ledger }: ResolvedOptions, keeps: "store" | "ledger"): string {
  return keeps === "ledger" && ledger.kind !== "store" ? ledger.kind : store.kind;
}

/** Of an address that stands for all of this machine's, the one that is reached from here. */
function urlOf({ server: { host, port } }: ResolvedOptions): string {
  const here = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  return `http://${here.includes(":") ? `[${here}]` : here}:${port}`;
}

/** Null = there is none, or something else has its port. */
async function runningGateway(options: ResolvedOptions): Promise<Operator | null> {
  const { key, path } = options.management;
  if (!key || options.server.port === 0) return null;
  const base = `${urlOf(options)}${path}`;
  let status: number;
  try {
    const answer = await fetch(`${base}/live`, {
      headers: { authorization: `Bearer ${key.reveal()}` },
      signal: AbortSignal.timeout(PROBE_MS),
      redirect: "error",
    });
    await answer.body?.cancel();
    ({ status } = answer);
  } catch {
    return null;
  }
  if (status === 401 || status === 403)
    throw new CommandError(`the gateway at ${base} does not accept management.key; is it the configuration that it runs with?`, EXIT_FAILED);
  return status === 200 ? operatorAt(base, key, "gateway") : null;
}

function operatorAt(base: string, key: Secret, place: Operator["place"]): Operator {
  return {
    place,
    async ask(method, path, body) {
      const answer = await fetch(base + path, {
        method,
        headers: { authorization: `Bearer ${key.reveal()}`, ...(body ? { "content-type": "application/json" } : {}) },
        ...(body ? { body: JSON.stringify(body) } : {}),
        signal: AbortSignal.timeout(CALL_MS),
        redirect: "error",
      });
      const said = (await answer.json()) as Record<string, unknown> & { readonly detail?: string };
      if (answer.ok) return said;
      throw new CommandError(said.detail ?? `the gateway answers with status ${answer.status}`, answer.status === 400 ? EXIT_USAGE : EXIT_FAILED);
    },
  };
}
