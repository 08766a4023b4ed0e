import { lookup as systemLookup, type LookupAddress } from "node:dns";
import { BlockList, isIP, type LookupFunction } from "node:net";

/**
 * Where requests may go. The address that is checked is the address that is dialled (the check sits in the connector's own lookup), so an answer
 * that changes between check and use cannot slip through. Ranges: IANA special-purpose address registries.
 */
export type AddressKind = "public" | "loopback" | "private" | "metadata";

/** Instance metadata services: they hand out the machine's own credentials, so no setting opens them. */
const METADATA = blockList(
  ["169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"],
  ["fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128"],
);

const METADATA_NAMES: ReadonlySet<string> = new Set([
  "metadata",
  "metadata.google.internal",
  "metadata.goog",
  "instance-data",
  "instance-data.ec2.internal",
]);

const LOOPBACK = blockList(["127.0.0.0/8"], ["::1/128"]);

/** Everything in IPv4 that is no ordinary host of the public internet. */
const PRIVATE = blockList(
  [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
  ],
  // Special blocks inside the global unicast range; what lies outside of it is refused as a whole. 2001::/23 includes Teredo.
  ["2001::/23", "2001:db8::/32", "3fff::/20"],
);

const GLOBAL_UNICAST = blockList([], ["2000::/3"]);

function blockList(v4: readonly string[], v6: readonly string[]): BlockList {
  const list = new BlockList();
  for (const [family, subnets] of [
    ["ipv4", v4],
    ["ipv6", v6],
  ] as const) {
    for (const subnet of subnets) {
      const [net, prefix] = subnet.split("/") as [string, string];
      list.addSubnet(net, Number(prefix), family);
    }
  }
  return list;
}

/** The eight 16-bit groups of a valid IPv6 address. */
function groupsOf(address: string): number[] {
  const [head = "", tail] = address.split("::");
  const parse = (text: string): number[] =>
    text === ""
      ? []
      : text.split(":").flatMap((part) => {
          if (!part.includes(".")) return [Number.parseInt(part, 16)];
          const [a = 0, b = 0, c = 0, d = 0] = part.split(".").map(Number);
          return [a * 256 + b, c * 256 + d];
        });
  const left = parse(head);
  if (tail === undefined) return left;
  const right = parse(tail);
  return [...left, ...Array.from({ length: 8 - left.length - right.length }, () => 0), ...right];
}

const dotted = (high: number, low: number): string => `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`;

/** The IPv4 address that an IPv6 form carries, and whether the form is plain IPv4 (mapped) or goes through some translator. */
function embedded(groups: readonly number[]): { readonly address: string; readonly form: "mapped" | "translated" | "obsolete" } | null {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = groups;
  if (a === 0x2002) return { address: dotted(b, c), form: "translated" }; // 6to4, RFC 3056
  if (a === 0x64 && b === 0xff9b && c + d + e + f === 0) return { address: dotted(g, h), form: "translated" }; // NAT64, RFC 6052
  if (a + b + c + d !== 0) return null;
  if (e === 0 && f === 0xffff) return { address: dotted(g, h), form: "mapped" }; // RFC 4291 2.5.5.2
  if (e === 0xffff && f === 0) return { address: dotted(g, h), form: "obsolete" }; // RFC 2765
  if (e === 0 && f === 0) return { address: dotted(g, h), form: "obsolete" }; // RFC 4291 2.5.5.1
  return null;
}

/** What kind of place an IP address is. IPv6 forms that carry an IPv4 address are judged by it. `address` must be an IP address. */
export function addressKind(address: string): AddressKind {
  const zone = address.indexOf("%");
  const bare = zone < 0 ? address : address.slice(0, zone);
  const family = isIP(bare);
  if (family === 4) {
    if (METADATA.check(bare, "ipv4")) return "metadata";
    if (LOOPBACK.check(bare, "ipv4")) return "loopback";
    return PRIVATE.check(bare, "ipv4") ? "private" : "public";
  }
  if (family !== 6) return "private";
  const groups = groupsOf(bare.toLowerCase());
  const plain = groups.map((group) => group.toString(16)).join(":");
  if (METADATA.check(plain, "ipv6")) return "metadata";
  if (plain === "0:0:0:0:0:0:0:1") return "loopback";
  const inner = embedded(groups);
  if (inner) {
    const kind = addressKind(inner.address);
    if (kind === "metadata" || inner.form === "mapped") return kind;
    return inner.form === "translated" && kind === "public" ? "public" : "private";
  }
  return GLOBAL_UNICAST.check(plain, "ipv6") && !PRIVATE.check(plain, "ipv6") ? "public" : "private";
}

/** An address that must not be dialled. Its message names it: log it, do not send it to a client. */
export class EgressError extends Error {
  readonly code = "EGRESS_REFUSED";

  constructor(message: string) {
    super(message);
    this.name = "EgressError";
  }
}

/**
 * Why a host as written in a base URL may never be dialled; null = it may be tried. A literal private address passes, because writing it is the
 * operator's permission; a metadata service never does.
 */
export function refusedHost(hostname: string): string | null {
  const host = hostname
    .replace(/^\[|\]$/g, "")
    .replace(/\.$/, "")
    .toLowerCase();
  const metadata = METADATA_NAMES.has(host) || (isIP(host) !== 0 && addressKind(host) === "metadata");
  return metadata ? `${host} is an instance metadata service and is never used as a provider` : null;
}

export interface EgressRule {
  /** The host as the operator wrote it. */
  readonly host: string;
  /** The operator's `allow_private: true`. */
  readonly allowPrivate: boolean;
  /** Replaces `dns.lookup`. */
  readonly lookup?: LookupFunction;
}

/** A lookup for `net.connect` and `tls.connect` that gives out only addresses which may be dialled, and fails when none is left. */
export function guardedLookup(rule: EgressRule): LookupFunction {
  const resolve = rule.lookup ?? systemLookup;
  const loopbackNamed = rule.host.toLowerCase() === "localhost";
  const allowed = (address: string): boolean => {
    const kind = addressKind(address);
    return kind === "public" || (kind !== "metadata" && rule.allowPrivate) || (kind === "loopback" && loopbackNamed);
  };
  return (hostname, options, callback) => {
    resolve(hostname, options, (error, found, family) => {
      if (error) return callback(error, [], 0);
      const addresses: readonly LookupAddress[] = typeof found === "string" ? [{ address: found, family: family ?? isIP(found) }] : found;
      const usable = addresses.filter((entry) => allowed(entry.address));
      const first = usable[0];
      if (!first) return callback(refusal(hostname, addresses), [], 0);
      if (options.all) callback(null, usable);
      else callback(null, first.address, first.family);
    });
  };
}

function refusal(hostname: string, addresses: readonly LookupAddress[]): EgressError {
  const kinds = addresses.map((entry) => `${entry.address} (${addressKind(entry.address)})`).join(", ");
  const metadata = addresses.some((entry) => addressKind(entry.address) === "metadata");
  const remedy = metadata
    ? "metadata services are never dialled"
    : "write the address itself in base_url, or set allow_private: true on this credential if its name may resolve to a private network";
  return new EgressError(`${hostname} resolves to ${kinds || "no address"}: ${remedy}`);
}

const URL_PARTS = /^(https?):\/\/([^/?#\\\s]*)([^?#\\\s]*)([?#\\\s].*)?$/is;

interface CheckedUrl {
  readonly url: URL;
  readonly path: string;
}

/** The checks that all URLs of upstreams share. Messages never repeat the URL: it may hold a password or a key. */
function checkUrl(text: string, what: string): CheckedUrl {
  const parts = URL_PARTS.exec(text);
  if (!parts) throw new Error(`${what} must be an absolute http:// or https:// URL`);
  const [, , authority = "", path = "", rest = ""] = parts;
  if (/[\\\s]/.test(rest)) throw new Error(`${what} must not contain spaces or backslashes`);
  const host = authority.slice(authority.lastIndexOf("@") + 1);
  if (host === "") throw new Error(`${what} has no host`);
  if (!URL.canParse(text)) throw new Error(`${what} is not a valid URL: check its host and port`);
  const url = new URL(text);
  const written = host.replace(/:\d*$/, "").toLowerCase();
  // A host that reads differently once parsed (octal or short IPs, percent signs, Unicode look-alikes) was not named literally.
  if (written !== url.hostname) throw new Error(`${what} writes its host in an unusual form; write it as ${url.hostname}`);
  if (written.endsWith(".")) throw new Error(`${what} must not end its host with a dot`);
  if (/:0*$/.test(host) && !host.endsWith("]")) throw new Error(`${what} has an unusable port`);
  const refused = refusedHost(url.hostname);
  if (refused !== null) throw new Error(`${what}: ${refused}`);
  return { url, path };
}

export interface BaseUrl {
  /** Scheme, host and port. */
  readonly origin: string;
  /** Prefix before the operation's own path: `` or e.g. `/openai`. No trailing slash and no trailing `/v1`. */
  readonly basePath: string;
}

/**
 * Checks a credential's `base_url` and takes it apart. A trailing `/v1` may be there or not. Throws an Error that says what is wrong and never
 * repeats the URL.
 * @example checkBaseUrl("https://api.openai.com/v1/") // { origin: "https://api.openai.com", basePath: "" }
 */
export function checkBaseUrl(text: string): BaseUrl {
  const { url, path } = checkUrl(text, "base_url");
  if (url.username !== "" || url.password !== "" || /^https?:\/\/[^/]*@/i.test(text)) {
    throw new Error("base_url must not contain a user or password; put the key into api_key");
  }
  if (/[?#]/.test(text)) throw new Error("base_url must not have a query or a fragment; put extra values into headers");
  const trimmed = path.replace(/\/+$/, "");
  if (trimmed !== "" && url.pathname.replace(/\/+$/, "") !== trimmed)
    throw new Error("base_url has an unusual path (.., empty or unescaped parts); write it out plainly");
  if (trimmed.includes("//")) throw new Error("base_url has an unusual path (.., empty or unescaped parts); write it out plainly");
  return { origin: url.origin, basePath: trimmed.replace(/\/v1$/, "").replace(/\/+$/, "") };
}

/** Checks a credential's `proxy_url`: http or https, a host, perhaps `user:password@`, nothing else. Throws an Error that never repeats the URL. */
export function checkProxyUrl(text: string): URL {
  const { url, path } = checkUrl(text, "proxy_url");
  if (path.replaceAll("/", "") !== "" || /[?#]/.test(text)) throw new Error("proxy_url must not have a path, a query or a fragment");
  return url;
}
