/** Takes secrets out of what is recorded. What replaces one is as long as it was, so that every boundary between chunks stays where it is. */

export interface Redaction {
  /** Bytes of a body, or of a part of a path. Latin-1 text, so that each character is a byte. */
  bytes(latin1: string): string;
  header(name: string, value: string): string;
  path(path: string): string;
}

const REDACTED = "[redacted]";

/** Keys as providers and we make them, tokens as they stand in headers, and the accounts that OpenAI, Anthropic and Google name in answers. */
const SHAPES: readonly RegExp[] = [
  /\b(?:sk|pk|rk|xai|gsk|qg|hf|r8|pplx|nvapi|csk)[-_][A-Za-z0-9_-]{8,}/g,
  /\bAIza[A-Za-z0-9_-]{20,}/g,
  /\bya29\.[A-Za-z0-9._-]{10,}/g,
  /\bgh[pousr]_[A-Za-z0-9]{16,}/g,
  /\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?/g,
  /(?<=\b[Bb]earer )[A-Za-z0-9._~+/=-]{8,}/g,
  /\b(?:org|proj|acct|sess)[-_][A-Za-z0-9]{12,}/g,
];

/** Headers that hold nothing but a secret, or whose account it is. `x-ratelimit-remaining-tokens` is none: tokens, not a token. */
const SECRET_HEADER =
  /^(?:cookie2?|set-cookie2?|forwarded|x-forwarded-.*|x-real-ip|.*-(?:ip|ipcountry))$|(?:^|[-_])(?:authorization|authenticate|auth|key|token|secret|session|password|signature|credential|organization|organisation|org|project|account|user)(?:[-_]id)?$/i;

const SECRET_QUERY = /^(?:key|api[-_]?key|access[-_]?token|token|auth|sig|signature|secret|password|code)$/i;

/** Of the length of what it replaces. */
function mask(length: number): string {
  return length >= REDACTED.length ? `${REDACTED.slice(0, -1)}${"*".repeat(length - REDACTED.length)}]` : "*".repeat(length);
}

/** A secret as it may stand in a body, a query or a header. */
function formsOf(secret: string): string[] {
  const json = JSON.stringify(secret).slice(1, -1);
  const forms = [secret, json, encodeURIComponent(secret), Buffer.from(secret).toString("base64"), Buffer.from(secret).toString("base64url")];
  return [...new Set(forms)].map((form) => Buffer.from(form).toString("latin1"));
}

/** `listed` = what the caller knows to be secret, besides the shapes of keys. */
export function redaction(listed: readonly string[] = []): Redaction {
  if (listed.includes("")) throw new Error("redact: an empty text would be found everywhere");
  // The longest first: one may be a part of another.
  const forms = listed.flatMap(formsOf).toSorted((a, b) => b.length - a.length);

  function bytes(latin1: string): string {
    let text = latin1;
    for (const form of forms) text = text.replaceAll(form, mask(form.length));
    for (const shape of SHAPES) text = text.replace(shape, (found) => mask(found.length));
    return text;
  }

  function queryOf(query: string): string {
    return query
      .split("&")
      .map((pair) => {
        const at = pair.indexOf("=");
        if (at < 0) return bytes(pair);
        const name = pair.slice(0, at);
        return SECRET_QUERY.test(decoded(name)) ? `${name}=${REDACTED}` : `${name}=${bytes(pair.slice(at + 1))}`;
      })
      .join("&");
  }

  return {
    bytes,
    header: (name, value) => (SECRET_HEADER.test(name) ? REDACTED : bytes(value)),
    path(path) {
      const at = path.indexOf("?");
      return at < 0 ? bytes(path) : `${bytes(path.slice(0, at))}?${queryOf(path.slice(at + 1))}`;
    },
  };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
