import { inspect } from "node:util";
import { Logger as NestLogger } from "@nestjs/common";
import type { Logger } from "../core/logger.ts";

/** The guard's log among the app's own lines, unless the options bring a logger. */
export function nestLogger(): Logger {
  const log = new NestLogger("QuotaGuard");
  return {
    debug: (fields, message) => log.debug(line(fields, message)),
    info: (fields, message) => log.log(line(fields, message)),
    warn: (fields, message) => log.warn(line(fields, message)),
    error: (fields, message) => log.error(line(fields, message), stackOf(fields)),
  };
}

/** One line: the message, then what is known besides. */
function line(fields: object, message: string): string {
  const { err, ...more } = fields as { readonly err?: unknown };
  const cause = err === undefined ? "" : `: ${err instanceof Error ? err.message : shown(err)}`;
  return `${message}${cause}${Object.keys(more).length === 0 ? "" : ` ${shown(more)}`}`;
}

/** As JSON; what is none, such as an answer that a plugin threw with its sockets, must not cost the line. */
function shown(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch {
    return inspect(value, { depth: 2, breakLength: Infinity, maxStringLength: 1_000 });
  }
}

function stackOf(fields: object): string | undefined {
  const { err } = fields as { readonly err?: unknown };
  return err instanceof Error ? err.stack : undefined;
}
