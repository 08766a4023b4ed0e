import { loadConfig, type LoadedConfig } from "../config/load.ts";
import { resolveOptions, type GuardOptions } from "../options.ts";

const DATABASE = { url: "sqlite:./data/quotaguard.db" } as const;

/** What a server of its own takes unless told otherwise: its state survives a restart, keys may be made at run time, and it can be scraped. */
const DEFAULTS = { store: DATABASE, keys: [], monitoring: { prometheusEnabled: true } } as const satisfies GuardOptions;

export interface ServerConfigOptions {
  readonly path?: string | undefined;
  readonly flags?: GuardOptions;
}

/** The options of `quotaguard serve`. */
export function serverConfig(options: ServerConfigOptions): LoadedConfig {
  const config = loadConfig({ ...options, defaults: DEFAULTS });
  const { store, ledger } = resolveOptions(config);
  // Redis keeps no rows: they would end with the process.
  return store.kind === "redis" && ledger.kind === "store" ? loadConfig({ ...options, defaults: { ...DEFAULTS, ledger: DATABASE } }) : config;
}
