import { ConfigError } from "../../core/errors.ts";
import type { Plugin, PluginHost } from "../../core/plugin.ts";
import { antigravity } from "./antigravity.ts";
import { claude } from "./claude.ts";
import { codex } from "./codex.ts";
import type { Collector } from "./collector.ts";
import { copilot } from "./copilot.ts";
import { gemini } from "./gemini.ts";
import { kiro } from "./kiro.ts";
import { localQuotas } from "./local-server/local-quotas.ts";
import { thisMachine } from "./local-server/servers.ts";
import { collectorsSchema, type CollectorsOptions, type ResolvedCollectors } from "./options.ts";
import { qwen } from "./qwen.ts";
import { scheduler, type Scheduler } from "./scheduler.ts";
import type { CollectorStatus } from "./status.ts";

const ALL: readonly Collector[] = [claude, codex, copilot, gemini, antigravity, kiro, qwen];

/** What the plugin's value carries for the host's code. */
export interface Collectors extends Plugin {
  readonly name: "collectors";
  /** How it stands with each credential that is asked about; empty before the guard has started. */
  status(): readonly CollectorStatus[];
  /**
   * Asks now: about one credential, or about all. Resolves when the answers are there, whatever they are; {@link status} tells. A provider that has said when to
   * come back is not asked before. Rejects with a ConfigError when no collector asks about that credential, or the guard does not run.
   */
  refresh(name?: string): Promise<void>;
}

/**
 * Asks providers what is left of the quotas of subscriptions (Claude, Codex, Copilot, Gemini CLI, Antigravity, Kiro, Qwen), and tells the guard: strategies,
 * operators and metrics see it as they see what answers to requests say.
 *
 * @throws ConfigError that names each wrong option.
 * @example
 * const asked = collectors({ interval: "2m" });
 * const guard = createGuard({ plugins: [asked], credentials: [{ name: "max", provider: "anthropic", apiKey: token }] });
 * await asked.refresh("max");
 */
export function collectors(options: CollectorsOptions = {}): Collectors {
  const resolved = resolve(options);
  let running: Scheduler | undefined;
  return {
    name: "collectors",
    setup(host) {
      if (running) throw new ConfigError(["collectors: this value serves another guard already; call collectors() once for each"]);
      const started = start(host, resolved);
      running = started;
      return async () => {
        await started.stop();
        running = undefined;
      };
    },
    status: () => running?.status() ?? [],
    async refresh(name) {
      if (!running) throw new ConfigError(["collectors: the guard does not run; await guard.ready() first"]);
      await running.refresh(name);
    },
  };
}

function resolve(options: CollectorsOptions): ResolvedCollectors {
  const result = collectorsSchema.safeParse(options);
  if (result.success) return result.data;
  throw new ConfigError(result.error.issues.map(({ path, message }) => `collectors: ${path.length === 0 ? "" : `${path.join(".")}: `}${message}`));
}

function start(host: PluginHost, options: ResolvedCollectors): Scheduler {
  const { interval, workers, jitter, adaptive, timeout, endpoints, antigravity: app } = options;
  const { clock, logger } = host;
  return scheduler({
    host,
    collectors: ALL,
    options: {
      intervalMs: interval,
      workers,
      jitterMs: jitter,
      isAdaptive: adaptive,
      timeoutMs: timeout,
      endpoints: Object.fromEntries(Object.entries(endpoints).filter(([, url]) => url !== undefined)),
    },
    local: localQuotas({
      options: { port: app.port, csrf: app.csrf, startCmd: app.startCmd, startTimeoutMs: app.startTimeout },
      machine: thisMachine(),
      clock,
      logger,
    }),
    random: Math.random,
  });
}
