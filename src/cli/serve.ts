import { appendModels } from "../config/models-file.ts";
import { ConfigError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import { createGuard, type QuotaGuard } from "../guard.ts";
import { resolveOptions } from "../options.ts";
import type { ResolvedOptions } from "../options/resolved.ts";
import { placeOf } from "../options/stores.ts";
import { cautions } from "./cautions.ts";
import { serverLog } from "./log.ts";
import { painter, print, type CommonFlags } from "./output.ts";
import { serverConfig } from "./server-config.ts";
import { gatewayServer } from "./server.ts";

export interface ServeFlags extends CommonFlags {
  readonly host?: string;
  readonly port?: string;
}

/** `quotaguard serve`: runs until a signal; the second one exits at once. */
export async function serve(flags: ServeFlags): Promise<void> {
  const paint = painter(flags);
  const server = { ...(flags.host === undefined ? {} : { host: flags.host }), ...(flags.port === undefined ? {} : { port: portOf(flags.port) }) };
  const config = serverConfig({ path: flags.config, flags: { server } });
  const options = resolveOptions(config);
  const problems = [
    ...(options.credentials.length === 0
      ? ["credentials: none is configured, so nothing can be served; add one to the file, or set OPENAI_API_KEY"]
      : []),
  ];
  if (problems.length > 0) throw new ConfigError(problems);
  const logger = serverLog(options.server.loggingLevel);
  for (const warning of [...config.warnings, ...cautions(options)]) logger.warn({ code: "QG_CONFIG" }, warning);

  const starting = startLogger(logger);
  const guard = createGuard({ ...config, logger: starting });
  const running = await gatewayServer({ guard, options, logger, beforeListening: () => somebodyMayCall(guard, options, logger) });
  starting.flush();
  // Before anything is printed: whoever reads that it listens may stop it at once.
  const stopped = stopBySignal(running.close, logger);
  if (flags.json) print(JSON.stringify({ url: running.url, config: config.file, pid: process.pid }));
  else {
    print(`${paint("green", "quotaguard")} listens on ${paint("bold", running.url)}`);
    print(`  config       ${config.file ?? "none (environment only)"}`);
    print(`  store        ${placeOf(options.store)}`);
    if (options.ledger.kind !== "store") print(`  ledger       ${placeOf(options.ledger)}`);
    print(`  credentials  ${options.credentials.map(({ name }) => name).join(", ")}`);
    print(`  management   ${options.management.key ? options.management.path : "off (set QUOTAGUARD_MANAGEMENT_KEY, or management.key)"}`);
    print(`  try          curl ${running.url}/v1/models -H "Authorization: Bearer $KEY"`);
  }

  if (config.modelsFile !== null) await writeModels(guard, config.modelsFile, options.server.defaultModelsRpm, logger);
  await stopped;
}

const NOBODY =
  "keys: nobody may call; make a key (quotaguard keys create --org dev), add one under keys, or set server.master_key (QUOTAGUARD_MASTER_KEY)";

/** Keys may still come through the management API; without it a server that refuses everybody is a mistake. */
async function somebodyMayCall(guard: QuotaGuard, { auth, management }: ResolvedOptions, logger: Logger): Promise<void> {
  if (auth?.kind !== "keys" || auth.masterKey !== null || auth.keys.length > 0) return;
  if ((await guard.admin.keys.list()).length > 0) return;
  if (!management.key) {
    await guard.close();
    throw new ConfigError([NOBODY]);
  }
  logger.warn({ code: "QG_CONFIG" }, NOBODY);
}

/** `server.replace_v1_models`: what the providers list is written down, for a person to give it limits and prices. The gateway serves meanwhile. */
async function writeModels(guard: QuotaGuard, path: string, defaultRpm: number, logger: Logger): Promise<void> {
  try {
    const added = await appendModels(path, await guard.admin.discoverModels(), defaultRpm);
    if (added.length > 0)
      logger.info({ file: path, models: added.length }, "models that the providers list were added; their limits hold from the next start");
  } catch (error) {
    const why = error instanceof ConfigError ? { problems: error.problems } : { err: error };
    logger.error({ ...why, code: "QG_MODELS_FILE" }, "the providers' models could not be written down; they are served all the same");
  }
}

/** Resolves when a signal has stopped the server in order; a second signal ends the process at once. */
function stopBySignal(close: () => Promise<void>, logger: Logger): Promise<void> {
  return new Promise((resolve) => {
    let stopping = false;
    const stop = (signal: NodeJS.Signals): void => {
      if (stopping) {
        logger.warn({ signal }, "stopped at once by a second signal");
        process.exit(1);
      }
      stopping = true;
      logger.info({ signal }, "stopping: open requests may finish");
      close().then(
        () => {
          logger.info({}, "stopped");
          resolve();
        },
        (error: unknown) => {
          logger.error({ err: error }, "the shutdown did not go well");
          process.exitCode = 1;
          resolve();
        },
      );
    };
    process.on("SIGTERM", stop);
    // A terminal that closes; there is no reload yet that it could ask for.
    process.on("SIGHUP", stop);
    process.on("SIGINT", stop);
  });
}

/** Holds errors back until the server listens: what keeps it from starting is said by the command, once and without a stack. */
function startLogger(logger: Logger): Logger & { flush(): void } {
  let held: (() => void)[] | null = [];
  return {
    debug: (fields, message) => logger.debug(fields, message),
    info: (fields, message) => logger.info(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    error: (fields, message) => (held ? void held.push(() => logger.error(fields, message)) : logger.error(fields, message)),
    flush() {
      for (const write of held ?? []) write();
      held = null;
    },
  };
}

function portOf(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65_535) throw new ConfigError([`--port: ${text} is not a port number`]);
  return Number(text);
}
