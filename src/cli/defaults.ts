import type { GuardOptions } from "../options.ts";

/** What a server of its own takes unless told otherwise: its state survives a restart, and it can be scraped. */
export const SERVE_DEFAULTS = {
  store: { url: "sqlite:./data/quotaguard.db" },
  monitoring: { prometheusEnabled: true },
} as const satisfies GuardOptions;
