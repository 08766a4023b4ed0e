import { pino, stdSerializers, type DestinationStream } from "pino";
import type { Logger } from "../core/logger.ts";

/** The server's log: JSON lines on standard error, because standard output is for what a script reads. */
export function serverLog(level: string, to: DestinationStream = pino.destination({ dest: 2, sync: true })): Logger {
  const log = pino(
    {
      level,
      base: undefined,
      redact: ["*.authorization", "*.apiKey", "*.key"],
      serializers: { err: (value: unknown) => (value instanceof Error ? stdSerializers.err(value) : value) },
    },
    to,
  );
  return {
    debug: (fields, message) => log.debug(fields, message),
    info: (fields, message) => log.info(fields, message),
    warn: (fields, message) => log.warn(withoutStack(fields), message),
    error: (fields, message) => log.error("code" in fields ? withoutStack(fields) : fields, message),
  };
}

/**
 * A warning, and an error that has a code, is about somebody else's trouble, a provider's, a client's or a server's: the lines of our code that noticed it
 * tell nobody anything.
 */
function withoutStack(fields: object): object {
  return "err" in fields && fields.err instanceof Error ? { ...fields, err: brief(fields.err) } : fields;
}

function brief(error: Error): object {
  const { name, message, cause } = error;
  const { code } = error as { readonly code?: unknown };
  return { type: name, message, ...(code === undefined ? {} : { code }), ...(cause instanceof Error ? { cause: cause.message } : {}) };
}
