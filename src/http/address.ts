/** Which address a client has, as far as that can be known: bans go by it, so a client must not be able to choose it. */
import type { IncomingMessage } from "node:http";
import { BlockList, isIPv4, isIPv6, type Socket } from "node:net";
import type { Logger } from "../core/logger.ts";

const MAPPED = "::ffff:";
/** What some proxies write: an address with its port, and IPv6 in brackets. */
const WITH_PORT = /^(?:\[([^\]]+)\]|([\d.]+))(?::\d{1,5})?$/;
const DOTTED_END = /(\d+)\.(\d+)\.(\d+)\.(\d+)$/;
const PEER = Symbol("quotaguard.peer");

const TRUSTS_ALL =
  'the app\'s "trust proxy" is true, which believes whatever X-Forwarded-For a client sends: bans go by the address of the connection instead. ' +
  "Set it to the addresses of your proxies, or to how many there are";
const SHARED_ADDRESS =
  'X-Forwarded-For arrives from a proxy, but the app\'s "trust proxy" is off: all clients behind it have one address, and a ban of it would hit them all. ' +
  "Set it to the addresses of your proxies, or to how many there are";

type WithPeer = Socket & { [PEER]?: string | null };

/** What Express adds. `ip` follows the app's `trust proxy`. */
interface ExpressRequest extends IncomingMessage {
  readonly app?: { get?(name: string): unknown };
  readonly ip?: string;
}

const warned = new WeakMap<Logger, Set<string>>();

function warnOnce(logger: Logger, message: string): void {
  let messages = warned.get(logger);
  if (!messages) warned.set(logger, (messages = new Set()));
  if (messages.has(message)) return;
  messages.add(message);
  logger.warn({ code: "QG_TRUST_PROXY" }, message);
}

/**
 * The address that bans go by: Express's `req.ip`, which follows the host's `trust proxy`; the connection's peer where that setting believes
 * everybody (`true`), where it yields no address, and without Express. IPv4 inside IPv6 is IPv4, without zone and port. Null = the connection has
 * none (a Unix socket) or is gone.
 */
export function clientAddress(req: IncomingMessage, logger: Logger): string | null {
  const { app } = req as ExpressRequest;
  const trust = typeof app?.get === "function" ? app.get("trust proxy") : false;
  if (trust === true) {
    warnOnce(logger, TRUSTS_ALL);
    return peerOf(req.socket);
  }
  if (!trust) {
    const peer = peerOf(req.socket);
    if (req.headers["x-forwarded-for"] !== undefined && peer !== null && isPrivate(peer)) warnOnce(logger, SHARED_ADDRESS);
    return peer;
  }
  const { ip } = req as ExpressRequest;
  return (ip === undefined ? null : normalAddress(ip)) ?? peerOf(req.socket);
}

/** Asked with every request of a connection, and the same for all of them. What adapters make up instead of a request may have no socket. */
function peerOf(socket: WithPeer | undefined): string | null {
  if (!socket) return null;
  const known = socket[PEER];
  if (known !== undefined) return known;
  const { remoteAddress } = socket;
  if (remoteAddress === undefined) return null;
  return (socket[PEER] = normalAddress(remoteAddress));
}

/** One spelling for one IPv4 address, lower case without zone for IPv6; null = it is no address. */
function normalAddress(text: string): string | null {
  if (isIPv4(text)) return text;
  const zone = text.indexOf("%");
  const address = (zone < 0 ? text : text.slice(0, zone)).toLowerCase();
  if (!isIPv6(address)) {
    const [, bracketed, plain] = WITH_PORT.exec(text) ?? [];
    const inner = bracketed ?? plain;
    return inner === undefined || inner === text ? null : normalAddress(inner);
  }
  if (address.startsWith(MAPPED) && isIPv4(address.slice(MAPPED.length))) return address.slice(MAPPED.length);
  const groups = groupsOf(address);
  const isMapped = groups.every((group, i) => i > 5 || group === (i === 5 ? 0xffff : 0));
  return isMapped
    ? groups
        .slice(6)
        .flatMap((group) => [group >> 8, group & 0xff])
        .join(".")
    : address;
}

/** The eight groups of a valid IPv6 address. */
function groupsOf(address: string): readonly number[] {
  const hex = address.replace(DOTTED_END, (_all, a: string, b: string, c: string, d: string) => `${toHex(a, b)}:${toHex(c, d)}`);
  const [front = [], back = []] = hex.split("::").map((half) => (half === "" ? [] : half.split(":")));
  const missing = Array<string>(8 - front.length - back.length).fill("0");
  return [...front, ...missing, ...back].map((group) => Number.parseInt(group, 16));
}

const toHex = (high: string, low: string): string => ((Number(high) << 8) | Number(low)).toString(16);

/**
 * What of an address one client cannot change at will: IPv4 as it is, IPv6 by its /56 (`2001:db8:0:100::/56`), which is what a household or a rented
 * machine gets.
 */
export function addressKey(address: string): string {
  if (!address.includes(":")) return address;
  const kept = groupsOf(address).map((group, i) => (i < 3 ? group : i === 3 ? group & 0xff00 : 0));
  while (kept.at(-1) === 0) kept.pop();
  return `${kept.map((group) => group.toString(16)).join(":")}::/56`;
}

let privateAddresses: BlockList | undefined;

function isPrivate(address: string): boolean {
  privateAddresses ??= privateList();
  return privateAddresses.check(address, address.includes(":") ? "ipv6" : "ipv4");
}

function privateList(): BlockList {
  const list = new BlockList();
  for (const [network, prefix] of [
    ["127.0.0.0", 8],
    ["10.0.0.0", 8],
    ["172.16.0.0", 12],
    ["192.168.0.0", 16],
    ["100.64.0.0", 10],
    ["169.254.0.0", 16],
  ] as const) {
    list.addSubnet(network, prefix, "ipv4");
  }
  list.addAddress("::1", "ipv6");
  list.addSubnet("fc00::", 7, "ipv6");
  list.addSubnet("fe80::", 10, "ipv6");
  return list;
}
