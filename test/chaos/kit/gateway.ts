import { randomUUID } from "node:crypto";

import express from "express";
import { createGuard, type GuardOptions, type QuotaGuard } from "quotaguard";

import type { Logger } from "../../../src/core/logger.ts";
import { listen } from "../../helpers/app.ts";

/** Everything that can travel to another process. */
export interface GatewayPlan {
  readonly upstream: string;
  readonly options: GuardOptions;
}

export interface LogLine {
  readonly level: keyof Logger;
  readonly code: string | null;
  readonly message: string;
  readonly error: string | null;
}

export interface RunningGateway {
  readonly url: string;
  readonly guard: QuotaGuard;
  /** What it logged from info up. */
  readonly lines: LogLine[];
  close(): Promise<void>;
}

/** The key of a client says whose budgets it touches: `user=u1,team=t1`. */
export const keyOf = (scopes: Readonly<Record<string, string>>): string =>
  Object.entries(scopes)
    .map(([name, value]) => `${name}=${value}`)
    .join(",");

const scopesOf = (key: string): Record<string, string> => Object.fromEntries(key.split(",").map((pair) => pair.split("=") as [string, string]));

/** All gateways of a test are one deployment. */
const SECRET = "the-chaos-tier-has-one-secret-for-all";
const MOST_LINES = 10_000;

/** A guard in an Express app on a free port. */
export async function gateway({ upstream, options }: GatewayPlan): Promise<RunningGateway> {
  const lines: LogLine[] = [];
  const write = (level: keyof Logger) => (fields: object, message: string) => {
    const { code, err } = fields as { code?: string; err?: unknown };
    if (lines.length < MOST_LINES) lines.push({ level, code: code ?? null, message, error: err instanceof Error ? err.message : null });
  };
  const logger: Logger = { debug: () => undefined, info: write("info"), warn: write("warn"), error: write("error") };
  const guard = createGuard({
    auth: (key) => (key === null ? null : { name: key, scopes: scopesOf(key) }),
    credentials: [{ name: "main", provider: "openai", apiKey: `sk-${randomUUID()}`, baseUrl: upstream }],
    secrets: { key: SECRET },
    fail2ban: { maxAttempts: 1_000_000 },
    logger,
    ...options,
  });
  const app = express();
  app.use("/llm", guard.handler());
  await guard.ready();
  const listening = await listen(app);
  return {
    url: listening.url,
    guard,
    lines,
    async close() {
      await listening.close();
      await guard.close();
    },
  };
}
