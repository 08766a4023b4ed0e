import express from "express";
import fc from "fast-check";
import type { IncomingMessage } from "node:http";
import { describe, expect, test } from "vitest";
import { addressKey, clientAddress } from "../../src/http/address.ts";
import { openContext } from "../../src/http/open.ts";
import { keptLogger } from "../core/context-kit.ts";
import { opening, rawClient, serve } from "./server-kit.ts";

/** A request as a server without Express has it. */
const from = (remoteAddress: string | undefined, headers: IncomingMessage["headers"] = {}): IncomingMessage =>
  ({ socket: { remoteAddress }, headers }) as unknown as IncomingMessage;

type Forwarded = string | readonly string[] | null;

/** What an Express app with this setting takes for the address of a request from 127.0.0.1, and what it warned of. */
async function seenBy(trustProxy: unknown, ...requests: Forwarded[]) {
  const app = express();
  if (trustProxy !== undefined) app.set("trust proxy", trustProxy);
  const logger = keptLogger();
  app.use((req, res) => void res.end(String(clientAddress(req, logger))));
  const { url } = await serve(app);
  const addresses: string[] = [];
  for (const forwarded of requests) {
    const headers: [string, string][] = [forwarded ?? []].flat().map((value) => ["x-forwarded-for", value]);
    addresses.push(await (await fetch(url, { headers })).text());
  }
  return { addresses, warnings: logger.lines.map(({ level, fields, message }) => `${level} ${String(fields.code)} ${message}`) };
}

describe("behind Express, with `trust proxy`", () => {
  test("off, X-Forwarded-For says nothing; that it arrives from a private address is worth one warning", async () => {
    const { addresses, warnings } = await seenBy(undefined, "203.0.113.7", "203.0.113.8, 10.0.0.1", null);
    expect(addresses).toEqual(["127.0.0.1", "127.0.0.1", "127.0.0.1"]);
    expect(warnings).toEqual([expect.stringMatching(/^warn QG_TRUST_PROXY .*"trust proxy" is off.*how many there are$/)]);
  });

  test("a number of hops, it is the address that the last of them saw", async () => {
    const spoofed = ["198.51.100.1, 203.0.113.7", "203.0.113.7", ["198.51.100.1", "203.0.113.7"]];
    expect(await seenBy(1, ...spoofed, null)).toEqual({ addresses: ["203.0.113.7", "203.0.113.7", "203.0.113.7", "127.0.0.1"], warnings: [] });
    expect((await seenBy(2, "198.51.100.1, 203.0.113.7, 10.0.0.1")).addresses).toEqual(["203.0.113.7"]);
  });

  test("a list of proxies, it is the last address that is none of them", async () => {
    const { addresses, warnings } = await seenBy(
      "loopback, 10.0.0.0/8",
      "198.51.100.1, 203.0.113.7, 10.1.2.3",
      "10.0.0.1, 203.0.113.7",
      "198.51.100.1",
    );
    expect([addresses, warnings]).toEqual([["203.0.113.7", "203.0.113.7", "198.51.100.1"], []]);
    // 127.0.0.1 is no proxy of theirs.
    expect((await seenBy("10.0.0.0/8", "203.0.113.7")).addresses).toEqual(["127.0.0.1"]);
  });

  test("true, which believes everybody, it is the connection's, with one warning", async () => {
    const { addresses, warnings } = await seenBy(true, null, "203.0.113.7", "203.0.113.8");
    expect(addresses).toEqual(["127.0.0.1", "127.0.0.1", "127.0.0.1"]);
    expect(warnings).toEqual([expect.stringMatching(/^warn QG_TRUST_PROXY .*"trust proxy" believes whatever.*how many there are$/)]);
  });

  test.each([
    ["a function that agrees to all", () => true],
    ["halves that are all of IPv4 and IPv6", ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]],
  ])("%s, it is believed as little as true", async (_name, setting) => {
    const { addresses, warnings } = await seenBy(setting, "203.0.113.7");
    expect([addresses, warnings]).toEqual([["127.0.0.1"], [expect.stringMatching(/^warn QG_TRUST_PROXY .*believes whatever/)]]);
  });

  test("more hops than a request has passed, it may be what the client wrote: one warning", async () => {
    const { addresses, warnings } = await seenBy(3, "203.0.113.7, 10.0.0.1", "198.51.100.1, 203.0.113.7, 10.0.0.1", null);
    expect(addresses).toEqual(["203.0.113.7", "198.51.100.1", "127.0.0.1"]);
    expect(warnings).toEqual([expect.stringMatching(/^warn QG_TRUST_PROXY .*counts more proxies/)]);
  });

  test("a list without the proxy that is there, all clients have one address: one warning", async () => {
    const { addresses, warnings } = await seenBy("10.0.0.0/8", "203.0.113.7", "203.0.113.8", null);
    expect(addresses).toEqual(["127.0.0.1", "127.0.0.1", "127.0.0.1"]);
    expect(warnings).toEqual([expect.stringMatching(/^warn QG_TRUST_PROXY .*does not name/)]);
    // What comes from the list's proxy about itself is no reason to warn.
    expect((await seenBy("loopback", "127.0.0.1")).warnings).toEqual([]);
  });

  test("a function of the host's, it is the host's decision", async () => {
    expect((await seenBy((_address: string, hop: number) => hop < 1, "198.51.100.1, 203.0.113.7")).addresses).toEqual(["203.0.113.7"]);
  });

  test("anything, what a proxy names instead of an address does not become one", async () => {
    const names = ["unknown", "203.0.113.7, _hidden", "203.0.113.07", "1.2.3", "203.0.113.7 x", "x".repeat(8_000), "[::1"];
    expect((await seenBy(1, ...names)).addresses).toEqual(names.map(() => "127.0.0.1"));
  });

  test("anything, a port that a proxy adds makes no new address", async () => {
    const withPorts = ["203.0.113.7:1024", "203.0.113.7:65535", "[2001:db8::7]:443", "[2001:db8::7]"];
    expect((await seenBy(1, ...withPorts)).addresses).toEqual(["203.0.113.7", "203.0.113.7", "2001:db8::7", "2001:db8::7"]);
  });

  test("set on the app around it, a mounted app follows", async () => {
    const [outer, inner] = [express(), express()];
    outer.set("trust proxy", 1);
    inner.use((req, res) => void res.end(clientAddress(req, keptLogger())));
    outer.use("/llm", inner);
    const { url } = await serve(outer);
    expect(await (await fetch(`${url}/llm/v1`, { headers: { "x-forwarded-for": "203.0.113.7" } })).text()).toBe("203.0.113.7");
  });
});

describe("without Express", () => {
  test("it is the connection's", async () => {
    const logger = keptLogger();
    const { url } = await serve((req, res) => void res.end(clientAddress(req, logger)));
    for (const headers of [{}, { "x-forwarded-for": "203.0.113.7" }]) expect(await (await fetch(url, { headers })).text()).toBe("127.0.0.1");
    expect(logger.lines).toHaveLength(1);
  });

  test.each([
    ["203.0.113.7", "203.0.113.7"],
    ["::ffff:203.0.113.7", "203.0.113.7"],
    ["::FFFF:203.0.113.7", "203.0.113.7"],
    ["::ffff:cb00:7107", "203.0.113.7"],
    ["0:0:0:0:0:ffff:203.0.113.7", "203.0.113.7"],
    ["0000::ffff:cb00:7107", "203.0.113.7"],
    ["fe80::1%eth0", "fe80::1"],
    ["::ffff:203.0.113.7%2", "203.0.113.7"],
    ["2001:DB8::A", "2001:db8::a"],
    ["::1", "::1"],
    ["::203.0.113.7", "::203.0.113.7"],
    ["1::ffff:203.0.113.7", "1::ffff:203.0.113.7"],
    [undefined, null],
  ])("%s is %s", (remoteAddress, expected) => {
    expect(clientAddress(from(remoteAddress), keptLogger())).toBe(expected);
  });

  test("and without a socket there is none", () => {
    expect(clientAddress({ headers: {} } as IncomingMessage, keptLogger())).toBeNull();
  });

  test.each([
    ["127.0.0.1", true],
    ["::1", true],
    ["10.9.8.7", true],
    ["172.31.0.1", true],
    ["192.168.1.1", true],
    ["100.64.0.1", true],
    ["169.254.1.1", true],
    ["fd00::1", true],
    ["fe80::1%eth0", true],
    ["::ffff:10.0.0.1", true],
    ["172.32.0.1", false],
    ["203.0.113.7", false],
    ["2001:db8::1", false],
  ])("X-Forwarded-For from %s is a warning: %s", (peer, isWarned) => {
    const logger = keptLogger();
    clientAddress(from(peer, { "x-forwarded-for": "198.51.100.1" }), logger);
    expect(logger.lines.length > 0).toBe(isWarned);
  });
});

describe("a context's address", () => {
  test("is still known when the connection is gone, once it was asked for", async () => {
    const { options } = opening();
    const opened = Promise.withResolvers<ReturnType<typeof openContext>>();
    const { port } = await serve((req, res) => opened.resolve(openContext(req, res, options, "other", null)));
    const client = await rawClient(port, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n");
    const ctx = await opened.promise;
    const closed = Promise.withResolvers<void>();
    ctx.after(() => closed.resolve());
    expect(ctx.address).toBe("127.0.0.1");
    client.socket.destroy();
    await closed.promise;
    expect(ctx.address).toBe("127.0.0.1");
  });
});

describe("what bans go by", () => {
  test.each([
    ["203.0.113.7", "203.0.113.7"],
    ["2001:db8:1:2ff:3:4:5:6", "2001:db8:1:200::/56"],
    ["2001:0DB8:0001:02ab::1", "2001:db8:1:200::/56"],
    ["2001:db8::1", "2001:db8::/56"],
    ["2001:db8:0:100::", "2001:db8:0:100::/56"],
    ["::1", "::/56"],
    ["64:ff9b::203.0.113.7", "64:ff9b::/56"],
    ["fe80::1", "fe80::/56"],
  ])("%s is %s", (address, key) => {
    expect(addressKey(address)).toBe(key);
  });

  test("is the same for all of a /56, whatever the spelling, and another one outside of it", () => {
    const group = fc.integer({ min: 0, max: 0xffff });
    fc.assert(
      fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), fc.array(group, { minLength: 8, maxLength: 8 }), (a, b) => {
        const neighbour = [...a.slice(0, 3), ((a[3] as number) & 0xff00) | ((b[3] as number) & 0xff), ...b.slice(4)];
        const padded = (groups: readonly number[]): string => groups.map((each) => each.toString(16).padStart(4, "0")).join(":");
        const short = (groups: readonly number[]): string => new URL(`http://[${padded(groups)}]`).hostname.slice(1, -1);
        const key = addressKey(short(a));
        expect([addressKey(padded(a)), addressKey(padded(neighbour)), addressKey(short(neighbour))]).toEqual([key, key, key]);
        expect(addressKey(padded([...a.slice(0, 3), (a[3] as number) ^ 0x100, ...a.slice(4)]))).not.toBe(key);
      }),
    );
  });
});
