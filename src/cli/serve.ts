import { pino } from "pino";
import { loadConfig } from "../config/load.ts";
import { ConfigError } from "../core/errors.ts";
import { createGuard } from "../guard.ts";
import { resolveOptions } from "../options.ts";
import { painter, print, type CommonFlags } from "./output.ts";
import { gatewayServer } from "./server.ts";

export interface ServeFlags extends CommonFlags {
  readonly host?: string;
  readonly port?: string;
}

/** Where a server of its own keeps its state unless told otherwise. */
const DEFAULTS = { store: { url: "sqlite:./data/quotaguard.db" }, monitoring: { prometheusEnabled: true } };

/** `quotaguard serve`: runs until a signal; the second one exits at once. */
export async function serve(flags: ServeFlags): Promise<void> {
  const paint = painter(flags);
  const server = { ...(flags.host === undefined ? {} : { host: flags.host }), ...(flags.port === undefined ? {} : { port: portOf(flags.port) }) };
  const config = loadConfig({ path: flags.config, flags: { server }, defaults: DEFAULTS });
  const options = resolveOptions(config);
  if (options.credentials.length === 0) {
    throw new ConfigError(["credentials: none is configured, so nothing can be served; add one to the file, or set OPENAI_API_KEY"]);
  }
  const level = options.server.loggingLevel;
  const logger = pino({ level, base: undefined, redact: ["*.authorization", "*.apiKey", "*.key"] });
  for (const warning of config.warnings) logger.warn({ code: "QG_CONFIG" }, warning);

  const guard = createGuard({ ...config, logger });
  const running = await gatewayServer({ guard, options, logger });
  if (flags.json) print(JSON.stringify({ url: running.url, config: config.file, pid: process.pid }));
  else {
    print(`${paint("green", "quotaguard")} listens on ${paint("bold", running.url)}`);
    print(`  config       ${config.file ?? "none (environment only)"}`);
    print(`  store        ${options.store.kind === "sqlite" ? options.store.path : options.store.kind}`);
    print(`  credentials  ${options.credentials.map(({ name }) => name).join(", ")}`);
    print(`  management   ${options.management.key ? options.management.path : "off (set management.key)"}`);
    print(`  try          curl ${running.url}/v1/models -H "Authorization: Bearer $KEY"`);
  }

  await new Promise<void>((resolve) => {
    let stopping = false;
    const stop = (signal: NodeJS.Signals): void => {
      if (stopping) {
        logger.warn({ signal }, "stopped at once by a second signal");
        process.exit(1);
      }
      stopping = true;
      logger.info({ signal }, "stopping: open requests may finish");
      running.close().then(
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
    process.on("SIGINT", stop);
  });
}

function portOf(text: string): number {
  if (!/^\d{1,5}$/.test(text)) throw new ConfigError([`--port: ${text} is not a port number`]);
  return Number(text);
}
