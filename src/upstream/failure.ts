import { GuardError } from "../core/errors.ts";

/** How far an exchange had come. */
export type Stage = "unsent" | "sent" | "answered";

const REASONS: ReadonlyMap<string, string> = new Map([
  ["ECONNREFUSED", "the connection was refused"],
  ["ENOTFOUND", "its name does not exist"],
  ["EAI_AGAIN", "its name could not be resolved"],
  ["ETIMEDOUT", "connecting took too long"],
  ["UND_ERR_CONNECT_TIMEOUT", "connecting took too long"],
  ["EHOSTUNREACH", "there is no route to it"],
  ["ENETUNREACH", "there is no route to it"],
  ["ECONNRESET", "it reset the connection"],
  ["EPIPE", "it closed the connection"],
  ["UND_ERR_SOCKET", "it closed the connection"],
  ["UND_ERR_PRX_CONN", "the proxy in front of it closed the connection"],
  ["UND_ERR_PRX_TLS", "the proxy in front of it has no valid certificate"],
  ["UND_ERR_ABORTED", "the proxy in front of it refused the tunnel"],
]);

/** What undici says when the peer breaks HTTP in a way that has no code of its own. */
const BAD_HTTP = new Set(["bad response", "bad upgrade"]);

function fieldOf(cause: unknown, name: "code" | "message" | "name"): string {
  const value = typeof cause === "object" && cause !== null ? (cause as Record<string, unknown>)[name] : undefined;
  return typeof value === "string" ? value : "";
}

/** An upstream that answers, but not in HTTP that can be passed on. */
export function protocolError(what: string, cause?: unknown): GuardError {
  return new GuardError("upstream_protocol", `The provider's answer is unusable: ${what}.`, { cause });
}

/**
 * Turns whatever undici, the socket or the egress guard reported into the error for the caller. Hosts, addresses and URLs stay in `cause`, which is
 * logged and never sent.
 */
export function failure(cause: unknown, stage: Stage): GuardError {
  if (GuardError.is(cause)) return cause;
  const code = fieldOf(cause, "code");
  const message = fieldOf(cause, "message");
  if (code === "UND_ERR_HEADERS_OVERFLOW") return protocolError("its headers are too large", cause);
  if (code === "UND_ERR_RES_CONTENT_LENGTH_MISMATCH") return protocolError("the body is not as long as its content-length says", cause);
  // Without undici's error itself: it carries the bytes that could not be read, and causes are logged.
  if (fieldOf(cause, "name") === "HTTPParserError" || BAD_HTTP.has(message)) return protocolError("it does not follow HTTP/1.1", new Error(message));
  if (code === "UND_ERR_CLOSED" || code === "UND_ERR_DESTROYED") {
    return new GuardError("overloaded", "The gateway is shutting down; try again elsewhere.", { cause });
  }
  if (stage === "answered") return protocolError("the connection was closed before the end", cause);
  if (code === "EGRESS_REFUSED") {
    const remedy = "the operator can name it literally in base_url, or set allow_private on the credential";
    return new GuardError("upstream_unreachable", `The provider's address is not allowed by the egress guard; ${remedy}.`, { cause });
  }
  if (code === "UND_ERR_INVALID_ARG" && !message.startsWith("Proxy")) {
    return new GuardError("internal", "The request to the provider could not be built; check the credential's headers and base_url.", { cause });
  }
  const certificate = code.includes("CERT") || code.startsWith("ERR_TLS") || code.startsWith("ERR_SSL") || code.includes("ISSUER");
  const reason =
    REASONS.get(code) ??
    (certificate ? "TLS failed" : message.startsWith("Proxy Auth") ? "the proxy in front of it wants other credentials" : "the connection failed");
  return new GuardError("upstream_unreachable", `The provider could not be reached: ${reason}${code === "" ? "" : ` (${code})`}.`, { cause });
}
