import type { Credential } from "../core/credential.ts";
import { VERSION } from "../core/version.ts";
import type { ProviderRow } from "../core/provider.ts";

/**
 * Which headers cross the gateway. Both directions are allow-lists (the provider's row, {@link RETURNED}): what they do not name stays where it is. In
 * particular never forwarded are the client's keys, cookies and identity (`openai-organization`, `openai-project`, `user-agent`, `x-stainless-*`, its
 * own request ids), and never returned the provider's cookies, account ids and `x-ratelimit-*` (they tell about the pooled account, not about the
 * caller).
 */
type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;

/** We say who we are: no provider is told that a request comes from another program. */
const USER_AGENT = `quotaguard/${VERSION}`;

/** [the provider's name, the client's name]. The provider's request id is what its support asks for; our own id keeps the plain name. */
const RETURNED: readonly (readonly [string, string])[] = [
  ["content-type", "content-type"],
  ["x-request-id", "x-upstream-request-id"],
  ["openai-processing-ms", "openai-processing-ms"],
  ["openai-version", "openai-version"],
];

/** RFC 9110 7.6.1, and what the transport derives itself. */
const NOT_SETTABLE: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "proxy-authenticate",
  "proxy-authorization",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "expect",
  "host",
  "content-length",
  "content-type",
  "accept-encoding",
  "cookie",
]);

/** The client's proofs and its address. No list of a provider's lets them through. */
const PRIVATE =
  /^(?:authorization|cookie2?|x-api-key|api-key|x-goog-api-key|forwarded|x-forwarded(?:-.*)?|x-real-ip|x-client-ip|true-client-ip|cf-.*)$/;

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const JSON_TYPE = "application/json";

/**
 * Checks the extra headers that an operator gives a credential. Throws an Error that names the header and never repeats its value.
 */
export function checkExtraHeaders(headers: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(headers)) {
    if (!TOKEN.test(name)) throw new Error(`headers: "${name.slice(0, 64)}" is not a valid header name`);
    if (NOT_SETTABLE.has(name.toLowerCase())) throw new Error(`headers: "${name}" is set by the gateway and cannot be given here`);
    if (!VALUE.test(value)) throw new Error(`headers: the value of "${name}" contains characters that HTTP does not allow`);
  }
}

/** Headers that are lists: what a client names comes on top of what the provider demands of the credential. */
const LISTS: ReadonlySet<string> = new Set(["anthropic-beta"]);

interface Fixed {
  readonly headers: readonly string[];
  /** Client headers that the operator has not set himself. */
  readonly forwarded: readonly string[];
  /** What each forwarded list begins with. */
  readonly lists: Readonly<Record<string, string>>;
}

/** What does not change between two requests of one credential. Credentials are replaced, not changed, so each is worked out once. */
const known = new WeakMap<Credential, Fixed>();

function fixedHeaders(provider: ProviderRow, credential: Credential): Fixed {
  const headers: Record<string, string> = { "user-agent": USER_AGENT };
  provider.authorize(headers, credential);
  const lists: Record<string, string> = {};
  for (const name of provider.forwardedHeaders) {
    const begin = headers[name];
    if (begin === undefined || !LISTS.has(name)) continue;
    lists[name] = begin;
    delete headers[name];
  }
  checkExtraHeaders(credential.headers);
  for (const [name, value] of Object.entries(credential.headers)) headers[name.toLowerCase()] = value;
  headers["accept-encoding"] = "identity";
  const forwarded = provider.forwardedHeaders.filter((name) => headers[name] === undefined && !NOT_SETTABLE.has(name) && !PRIVATE.test(name));
  const fixed = { headers: Object.entries(headers).flat(), forwarded, lists };
  known.set(credential, fixed);
  return fixed;
}

/**
 * The headers of a request to a provider: alternating names and values. `client` has lower-case names, as Node gives them; `bodyBytes` is null for
 * a request without a body.
 */
export function requestHeaders(client: Headers, provider: ProviderRow, credential: Credential, bodyBytes: number | null): string[] {
  const fixed = known.get(credential) ?? fixedHeaders(provider, credential);
  const headers = fixed.headers.slice();
  if (bodyBytes !== null) headers.push("content-type", contentType(client["content-type"]));
  const hopByHop = listed(client.connection);
  for (const name of fixed.forwarded) {
    const value = hopByHop?.has(name) ? undefined : client[name];
    const begin = fixed.lists[name];
    if (value === undefined && begin === undefined) continue;
    const said = value === undefined || typeof value === "string" ? value : value.join(", ");
    headers.push(name, begin === undefined || said === undefined ? (begin ?? (said as string)) : `${begin},${said}`);
  }
  return headers;
}

/** Bodies on this lane are JSON, whatever the client called them; a JSON type's parameters are kept. */
function contentType(sent: Headers[string]): string {
  return typeof sent === "string" && sent.startsWith(JSON_TYPE) ? sent : JSON_TYPE;
}

/** The names that a Connection header makes hop-by-hop; null in the usual cases. */
function listed(connection: Headers[string]): ReadonlySet<string> | null {
  if (connection === undefined || connection === "keep-alive" || connection === "close") return null;
  const names = typeof connection === "string" ? connection : connection.join(",");
  return new Set(names.split(",").map((name) => name.trim().toLowerCase()));
}

/** The provider's headers that go on to the client, as `writeHead` takes them. No content-length: the edge adds it. */
export function responseHeaders(provider: Headers): string[] {
  const headers: string[] = [];
  const hopByHop = listed(provider.connection);
  for (const [theirs, ours] of RETURNED) {
    const value = provider[theirs];
    if (typeof value === "string" && !hopByHop?.has(theirs)) headers.push(ours, value);
  }
  return headers;
}
