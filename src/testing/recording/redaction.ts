/** Takes secrets out of what is recorded. What replaces one is as long as it was, so that every boundary between chunks stays where it is. */

export interface Redaction {
  /** Bytes of a body, or of a part of a path. Latin-1 text, so that each character is a byte. */
  bytes(latin1: string): string;
  header(name: string, value: string): string;
  path(path: string): string;
}

const REDACTED = "[redacted]";

/** Where a word begins: also behind an escape of JSON (`\n`, `\u003d`) or of a URL (`%20`), whose last character is a letter or a digit. */
const BEGIN = String.raw`(?:\b|(?<=\\[bfnrt]|\\u[\dA-Fa-f]{4}|%[\dA-Fa-f]{2}))`;
const shape = (source: string): RegExp => new RegExp(BEGIN + source, "g");

/** What holds nothing but a secret, as a member or a parameter. Neither `max_tokens` (tokens, not a token) nor a `token` of a text is one. */
const SECRET_NAME = String.raw`(?:[\w-]*[_-])?(?:api[_-]?key|(?:access|refresh|id|auth|authorization|session|security|bot)[_-]?token|authorization|client[_-]?secret|secret|private[_-]?key|password)`;

/**
 * Keys as providers and we make them, tokens as they stand in headers, and the accounts that OpenAI, Anthropic and Google name in answers. Then what is
 * known by its name: in JSON, in JSON inside a text, in URLs and forms. None of them has an open end: megabytes of base64 are no key, and too much for the stack.
 */
const SHAPES: readonly RegExp[] = [
  shape(String.raw`(?:sk|pk|rk|ek|xai|gsk|qg|hf|r8|pplx|nvapi|csk)[-_][A-Za-z0-9_-]{8,512}`),
  shape(String.raw`AIza[A-Za-z0-9_-]{20,512}`),
  shape(String.raw`ya29\.[A-Za-z0-9._-]{10,4096}`),
  shape(String.raw`GOCSPX-[A-Za-z0-9_-]{10,512}`),
  shape(String.raw`gh[pousr]_[A-Za-z0-9]{16,512}`),
  shape(String.raw`eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{4,8192}(?:\.[A-Za-z0-9_-]{0,8192})?`),
  new RegExp(String.raw`(?<=${BEGIN}[Bb]earer(?: |%20|\+))[A-Za-z0-9._~+/=-]{8,8192}`, "g"),
  shape(String.raw`(?:org|proj|acct|sess)[-_][A-Za-z0-9]{12,512}`),
  shape("user-[A-Za-z0-9]{20,512}"),
  new RegExp(String.raw`(?<="${SECRET_NAME}"\s*:\s*")(?:[^"\\]|\\.){1,65536}`, "gi"),
  new RegExp(String.raw`(?<=\\"${SECRET_NAME}\\"\s*:\s*\\")[^"\\]{1,65536}`, "gi"),
  new RegExp(String.raw`(?<=(?:^|[?&;]|\\u0026)(?:${SECRET_NAME}|key|(?:[\w-]*-)?sig(?:nature)?)=)[^&;\s"'\\<>]{1,65536}`, "gi"),
];

/** Headers that hold nothing but a secret, or whose account it is. `x-ratelimit-remaining-tokens` is none: tokens, not a token. */
const SECRET_HEADER =
  /^(?:cookie2?|set-cookie2?|forwarded|x-forwarded-.*|x-real-ip|.*-(?:ip|ipcountry))$|(?:^|[-_])(?:authorization|authenticate|auth|key|token|secret|session|password|signature|credential|organization|organisation|org|project|account|user)(?:[-_]id)?$/i;

const SECRET_QUERY = /^(?:code|(?:[\w-]*[-_])?(?:key|api[-_]?key|token|auth|sig|signature|secret|password|credential))$/i;

/** Of the length of what it replaces. */
function mask(length: number): string {
  return length >= REDACTED.length ? `${REDACTED.slice(0, -1)}${"*".repeat(length - REDACTED.length)}]` : "*".repeat(length);
}

/** Shorter pieces would be found everywhere. */
const LEAST_BASE64 = 8;

/** A secret inside something longer that was coded, as in `user:secret`: by where it begins there are three texts. */
function piecesInBase64(secret: string): string[] {
  return [0, 1, 2].flatMap((before) => {
    const bytes = Buffer.concat([Buffer.alloc(before), Buffer.from(secret)]);
    // The last character is its alone only where it ends with it.
    const whole = Math.floor((bytes.length * 8) / 6);
    const piece = bytes.toString("base64").slice(Math.ceil((before * 8) / 6), whole);
    return piece.length < LEAST_BASE64 ? [] : [piece, piece.replaceAll("+", "-").replaceAll("/", "_")];
  });
}

/** A secret as it may stand in a body, a query or a header. */
function formsOf(secret: string): string[] {
  const json = JSON.stringify(secret).slice(1, -1);
  const percent = encodeURIComponent(secret);
  const form = new URLSearchParams([["", secret]]).toString().slice(1);
  const lower = (text: string): string => text.replaceAll(/%[\dA-F]{2}/g, (escape) => escape.toLowerCase());
  const base64 = [Buffer.from(secret).toString("base64"), Buffer.from(secret).toString("base64url"), ...piecesInBase64(secret)];
  const forms = [secret, json, json.replaceAll("/", String.raw`\/`), percent, lower(percent), form, lower(form), ...base64];
  return [...new Set(forms)].map((text) => Buffer.from(text).toString("latin1"));
}

/** `listed` = what the caller knows to be secret, besides the shapes of keys. */
export function redaction(listed: readonly string[] = []): Redaction {
  if (listed.includes("")) throw new Error("redact: an empty text would be found everywhere");
  // The longest first: one may be a part of another.
  const forms = listed.flatMap(formsOf).toSorted((a, b) => b.length - a.length);

  function bytes(latin1: string): string {
    let text = latin1;
    for (const form of forms) text = text.replaceAll(form, mask(form.length));
    for (const known of SHAPES) text = text.replace(known, (found) => mask(found.length));
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
