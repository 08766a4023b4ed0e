/** Which address a client has, as far as that can be known: bans go by it, so a client must not be able to choose it. */
import type { IncomingMessage } from "node:http";
import { BlockList, isIPv4, isIPv6, type Socket } from "node:net";
import { diagnose } from "../core/diagnostics.ts";
import type { Logger } from "../core/logger.ts";

const MAPPED = "::ffff:";
/** What some proxies write: an address with its port, and IPv6 in brackets. */
const WITH_PORT = /^(?:\[([^\]]+)\]|([\d.]+))(?::\d{1,5})?$/;
const DOTTED_END = /(\d+)\.(\d+)\.(\d+)\.(\d+)$/;
const PEER = Symbol("quotaguard.peer");

const TRUSTS_ALL =
  'the app\'s "trust proxy" believes whatever X-Forwarded-For a client sends: bans go by the address of the connection instead. ' +
  "Set it to the addresses of your proxies, or to how many there are";
const SHARED_ADDRESS =
  'X-Forwarded-For arrives from a proxy, but the app\'s "trust proxy" is off: all clients behind it have one address, and a ban of it would hit them all. ' +
  "Set it to the addresses of your proxies, or to how many there are";
const UNKNOWN_PROXY =
  'X-Forwarded-For arrives from a proxy that the app\'s "trust proxy" does not name: all clients behind it have one address, and a ban of it would hit ' +
  "them all. Add its address";
const TOO_MANY =
  'the app\'s "trust proxy" counts more proxies than X-Forwarded-For has passed: clients that come another way name their own address. ' +
  "Set it to how many there are on every way in, or to their addresses";

/** Addresses that are nobody's (RFC 5737, RFC 3849). Who believes all of them, at any place of the chain, believes everybody. */
const NOBODY = ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"];
const FAR = 1_000_000;

type WithPeer = Socket & { [PEER]?: string | null };

/** What Express adds. `ip` follows the app's `trust proxy`. */
interface ExpressRequest extends IncomingMessage {
  readonly app?: { get?(name: string): unknown };
  readonly ip?: string;
}

type Trusts = (address: string, place: number) => boolean;

const believers = new WeakMap<Trusts, boolean>();

/** Whether the app believes anybody: asked once per setting, because Express keeps one function for each. */
function believesAll(app: NonNullable<ExpressRequest["app"]>, trust: unknown): boolean {
  if (trust === true) return true;
  const trusts = app.get?.("trust proxy fn");
  if (typeof trusts !== "function") return false;
  const known = believers.get(trusts as Trusts);
  if (known !== undefined) return known;
  let all = false;
  try {
    all = NOBODY.every((address) => (trusts as Trusts)(address, FAR));
  } catch {
    // A function of the host's that minds such questions is not one that believes everybody.
  }
  believers.set(trusts as Trusts, all);
  return all;
}

/** A proxy of ours, by its address, that a list of proxies has forgotten. A function of the host's knows what it does. */
function isOutsideList(app: NonNullable<ExpressRequest["app"]>, trust: unknown, peer: string): boolean {
  if ((typeof trust !== "string" && !Array.isArray(trust)) || !isPrivate(peer)) return false;
  const trusts = app.get?.("trust proxy fn");
  return typeof trusts === "function" && !(trusts as Trusts)(peer, 0);
}

/**
 * The address that bans go by: Express's `req.ip`, which follows the host's `trust proxy`; the connection's peer where that setting believes
 * everybody, where it yields no address, and without Express. IPv4 inside IPv6 is IPv4, without zone and port. Null = the connection has
 * none (a Unix socket) or is gone.
 */
export function clientAddress(req: IncomingMessage, logger: Logger): string | null {
  const { app } = req as ExpressRequest;
  const trust = typeof app?.get === "function" ? app.get("trust proxy") : false;
  const peer = peerOf(req.socket);
  const forwarded = req.headers["x-forwarded-for"];
  const isForwarded = forwarded !== undefined && peer !== null;
  if (!app || !trust) {
    if (isForwarded && isPrivate(peer)) diagnose(logger, "QG_TRUST_PROXY", {}, SHARED_ADDRESS);
    return peer;
  }
  if (believesAll(app, trust)) {
    diagnose(logger, "QG_TRUST_PROXY", {}, TRUSTS_ALL);
    return peer;
  }
  const { ip } = req as ExpressRequest;
  const found = ip === undefined ? null : normalAddress(ip);
  if (isForwarded) {
    if (typeof trust === "number" && String(forwarded).split(",").length < trust) diagnose(logger, "QG_TRUST_PROXY", {}, TOO_MANY);
    else if (isOutsideList(app, trust, peer)) diagnose(logger, "QG_TRUST_PROXY", {}, UNKNOWN_PROXY);
  }
  return found ?? peer;
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
