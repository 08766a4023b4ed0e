import { createServer, type AddressInfo, type LookupFunction, type Server } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { addressKind, checkBaseUrl, checkProxyUrl, guardedLookup, refusedHost } from "../../src/upstream/egress.ts";
import { undiciTransport } from "../../src/upstream/transport.ts";
import { chatRequest, collect } from "./collect.ts";

const METADATA = [
  "169.254.169.254",
  "169.254.170.2",
  "169.254.170.23",
  "100.100.100.200",
  "168.63.129.16",
  "192.0.0.192",
  "fd00:ec2::254",
  "fd00:ec2:0:0:0:0:0:254",
  "FD00:EC2::254",
  "fd00:ec2::23",
  "fd20:ce::254",
  "::ffff:169.254.169.254",
  "::ffff:a9fe:a9fe",
  "0:0:0:0:0:ffff:a9fe:a9fe",
  "64:ff9b::169.254.169.254",
  "64:ff9b::a9fe:a9fe",
  "2002:a9fe:a9fe::1",
  "::169.254.169.254",
  "::ffff:0:169.254.169.254",
  "::ffff:100.100.100.200",
  "fd00:ec2::254%1",
];

const LOOPBACK = ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::ffff:7f00:1"];

const PRIVATE = [
  "0.0.0.0",
  "0.1.2.3",
  "10.0.0.1",
  "10.255.255.255",
  "100.64.0.1",
  "100.127.255.255",
  "169.254.0.1",
  "169.254.169.253",
  "172.16.0.1",
  "172.31.255.255",
  "192.0.0.1",
  "192.0.2.1",
  "192.88.99.1",
  "192.168.0.1",
  "192.168.255.255",
  "198.18.0.1",
  "198.19.255.255",
  "198.51.100.1",
  "203.0.113.1",
  "224.0.0.1",
  "239.255.255.255",
  "240.0.0.1",
  "255.255.255.255",
  "::",
  "fc00::1",
  "fd12:3456:789a::1",
  "fe80::1",
  "fe80::1%eth0",
  "febf::1",
  "fec0::1",
  "ff02::1",
  "ff0e::1",
  "::ffff:10.0.0.1",
  "::ffff:192.168.1.1",
  "::ffff:0.0.0.0",
  "64:ff9b::10.0.0.1",
  "64:ff9b::127.0.0.1",
  "64:ff9b:1::1",
  "64:ff9b:1::8.8.8.8",
  "2002:0a00:0001::1",
  "2002:7f00:1::",
  "2001::1",
  "2001:0:4136:e378:8000:63bf:3fff:fdd2",
  "2001:db8::1",
  "2001:10::1",
  "3fff::1",
  "5f00::1",
  "100::1",
  "::127.0.0.1",
  "::8.8.8.8",
  "::ffff:0:127.0.0.1",
  "::ffff:0:8.8.8.8",
  "4000::1",
  "not an address",
  "",
];

const PUBLIC = [
  "8.8.8.8",
  "1.1.1.1",
  "9.255.255.255",
  "11.0.0.0",
  "100.63.255.255",
  "100.128.0.0",
  "126.255.255.255",
  "128.0.0.1",
  "172.15.255.255",
  "172.32.0.0",
  "192.0.1.1",
  "192.167.255.255",
  "192.169.0.0",
  "198.17.255.255",
  "198.20.0.0",
  "223.255.255.255",
  "2606:4700:4700::1111",
  "2a00:1450::1",
  "2001:4860:4860::8888",
  "::ffff:8.8.8.8",
  "64:ff9b::8.8.8.8",
  "2002:0808:0808::1",
  "2620:fe::fe",
];

describe("addressKind", () => {
  it.each([
    ["metadata", METADATA],
    ["loopback", LOOPBACK],
    ["private", PRIVATE],
    ["public", PUBLIC],
  ] as const)("knows %s addresses in all their forms", (kind, addresses) => {
    expect(addresses.map((address) => [address, addressKind(address)])).toEqual(addresses.map((address) => [address, kind]));
  });
});

/** Answers every name with these addresses. */
function resolvesTo(...answers: (readonly string[])[]): LookupFunction & { readonly asked: string[] } {
  const asked: string[] = [];
  const lookup: LookupFunction = (hostname, options, callback) => {
    asked.push(hostname);
    const addresses = answers[Math.min(asked.length, answers.length) - 1] ?? [];
    const found = addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
    if (options.all) callback(null, found);
    else callback(null, found[0]?.address ?? "", found[0]?.family);
  };
  return Object.assign(lookup, { asked });
}

function ask(rule: Parameters<typeof guardedLookup>[0], all: boolean): Promise<readonly string[]> {
  return new Promise((resolve, reject) => {
    guardedLookup(rule)(rule.host, { all }, (error, found) => {
      if (error) reject(error);
      else resolve(typeof found === "string" ? [found] : found.map((entry) => entry.address));
    });
  });
}

describe("guardedLookup", () => {
  it("gives out only what may be dialled, in both shapes of lookup", async () => {
    const lookup = resolvesTo(["10.0.0.1", "8.8.8.8", "::1"]);
    expect(await ask({ host: "mixed.test", allowPrivate: false, lookup }, true)).toEqual(["8.8.8.8"]);
    await expect(ask({ host: "mixed.test", allowPrivate: false, lookup }, false)).rejects.toThrow("10.0.0.1 (private)");
  });

  it("lets localhost be the loopback and nothing else", async () => {
    expect(await ask({ host: "localhost", allowPrivate: false, lookup: resolvesTo(["127.0.0.1", "10.0.0.1"]) }, true)).toEqual(["127.0.0.1"]);
    await expect(ask({ host: "local.host", allowPrivate: false, lookup: resolvesTo(["127.0.0.1"]) }, true)).rejects.toThrow("allow_private: true");
  });

  it("opens private addresses with allowPrivate, metadata never", async () => {
    const rule = { host: "llm.corp", allowPrivate: true };
    expect(await ask({ ...rule, lookup: resolvesTo(["10.0.0.1", "169.254.169.254", "::1"]) }, true)).toEqual(["10.0.0.1", "::1"]);
    for (const address of METADATA)
      await expect(ask({ ...rule, lookup: resolvesTo([address]) }, true)).rejects.toThrow("metadata services are never dialled");
  });

  it("passes a failed lookup on", async () => {
    const lookup: LookupFunction = (_name, _options, callback) => callback(Object.assign(new Error("no"), { code: "ENOTFOUND" }), []);
    await expect(ask({ host: "x.test", allowPrivate: false, lookup }, true)).rejects.toMatchObject({ code: "ENOTFOUND" });
    await expect(ask({ host: "x.test", allowPrivate: false, lookup: resolvesTo([]) }, true)).rejects.toMatchObject({ code: "EGRESS_REFUSED" });
  });
});

describe("the connector", () => {
  const canaries: Server[] = [];
  let hits = 0;
  let port = 0;

  beforeAll(async () => {
    const listen = (host: string, at: number): Promise<number> =>
      new Promise((resolve, reject) => {
        const server = createServer((socket) => {
          hits += 1;
          socket.end("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        });
        server.once("error", reject);
        server.listen(at, host, () => resolve((server.address() as AddressInfo).port));
        canaries.push(server);
      });
    port = await listen("127.0.0.1", 0);
    await listen("::1", port).catch(() => undefined);
  });

  afterAll(() => {
    for (const server of canaries) server.close();
  });

  it("never dials a refused address: 0 hits on the canary, and the reason is not told to the client", async () => {
    const before = hits;
    for (const address of [...METADATA, ...LOOPBACK, ...PRIVATE.filter((text) => text.includes(".") || text.includes(":"))]) {
      const transport = undiciTransport({ connectTimeoutMs: 5_000, lookup: resolvesTo([address]) });
      const { error, sent } = await collect(transport, chatRequest(`http://provider.test:${port}`)).done;
      expect([address, error?.code, sent]).toEqual([address, "upstream_unreachable", false]);
      expect(error?.cause, address).toMatchObject({ code: "EGRESS_REFUSED" });
      expect(error?.message).not.toContain(address || "\0");
      await transport.close();
    }
    expect(hits - before).toBe(0);
  });

  it("is not fooled by an answer that flips after the first connection", async () => {
    const before = hits;
    // Loopback stands in for the public address: the first rule allows it, so that a real connection can be made.
    const lookup = resolvesTo(["127.0.0.1"], ["169.254.169.254"]);
    const transport = undiciTransport({ connectTimeoutMs: 5_000, lookup });
    const first = await collect(transport, chatRequest(`http://rebind.test:${port}`, {}, { allowPrivate: true })).done;
    expect(first.text).toBe("hi");
    const second = await collect(transport, chatRequest(`http://rebind.test:${port}`, {}, { allowPrivate: true })).done;
    expect([second.error?.code, second.sent, lookup.asked.length]).toEqual(["upstream_unreachable", false, 2]);
    expect(hits - before).toBe(1);
    await transport.close();
  });

  it("looks a name up once per connection: the address that was checked is the one dialled", async () => {
    const before = hits;
    const lookup = resolvesTo(["127.0.0.1"]);
    const transport = undiciTransport({ connectTimeoutMs: 5_000, lookup });
    expect((await collect(transport, chatRequest(`http://localhost:${port}`)).done).text).toBe("hi");
    expect([hits - before, lookup.asked]).toEqual([1, ["localhost"]]);
    await transport.close();
  });

  it("dials a private literal, because the operator wrote it", async () => {
    const transport = undiciTransport({ connectTimeoutMs: 5_000, lookup: resolvesTo([]) });
    expect((await collect(transport, chatRequest(`http://127.0.0.1:${port}`)).done).text).toBe("hi");
    await transport.close();
  });

  it("does not share connections between a credential that may go to private names and one that may not", async () => {
    const before = hits;
    const transport = undiciTransport({ connectTimeoutMs: 5_000, lookup: resolvesTo(["127.0.0.1"]) });
    const origin = `http://shared.test:${port}`;
    expect((await collect(transport, chatRequest(origin, {}, { allowPrivate: true })).done).status).toBe(200);
    expect((await collect(transport, chatRequest(origin)).done).error?.code).toBe("upstream_unreachable");
    expect(hits - before).toBe(1);
    await transport.close();
  });

  it("refuses metadata literals and names whatever else is said, also behind a proxy", async () => {
    const before = hits;
    const transport = undiciTransport({ connectTimeoutMs: 5_000, lookup: resolvesTo(["127.0.0.1"]) });
    for (const host of [
      "169.254.169.254",
      "[fd00:ec2::254]",
      "[::ffff:169.254.169.254]",
      "metadata.google.internal",
      "metadata.google.internal.",
      "100.100.100.200",
    ]) {
      for (const proxyUrl of [null, `http://127.0.0.1:${port}`]) {
        const { error } = await collect(transport, chatRequest(`http://${host}:${port}`, {}, { allowPrivate: true, proxyUrl })).done;
        expect([host, error?.code]).toEqual([host, "upstream_unreachable"]);
      }
    }
    expect(hits - before).toBe(0);
    await transport.close();
  });
});

describe("checkBaseUrl", () => {
  it.each([
    ["https://api.openai.com", "https://api.openai.com", ""],
    ["https://api.openai.com/", "https://api.openai.com", ""],
    ["https://api.openai.com/v1", "https://api.openai.com", ""],
    ["https://api.openai.com/v1///", "https://api.openai.com", ""],
    ["HTTPS://API.OpenAI.com:443/v1", "https://api.openai.com", ""],
    ["http://127.0.0.1:8000/v1", "http://127.0.0.1:8000", ""],
    ["http://localhost:11434", "http://localhost:11434", ""],
    ["http://[::1]:8000/v1", "http://[::1]:8000", ""],
    ["http://10.0.0.5", "http://10.0.0.5", ""],
    ["https://api.groq.com/openai/v1", "https://api.groq.com", "/openai"],
    ["https://host.test/a/b/", "https://host.test", "/a/b"],
    ["https://host.test/v1/proxy", "https://host.test", "/v1/proxy"],
    ["https://host.test/apiv1", "https://host.test", "/apiv1"],
    ["https://xn--bcher-kva.example/v1", "https://xn--bcher-kva.example", ""],
  ])("takes %s apart", (url, origin, basePath) => {
    expect(checkBaseUrl(url)).toEqual({ origin, basePath });
  });

  it.each([
    ["", "absolute"],
    ["api.openai.com", "absolute"],
    ["file:///etc/passwd", "absolute"],
    ["gopher://x/", "absolute"],
    ["ftp://x/", "absolute"],
    ["javascript:alert(1)", "absolute"],
    ["//host.test", "absolute"],
    ["http:host.test", "absolute"],
    ["https://", "no host"],
    ["https:///v1", "no host"],
    ["https://user:sk-secret@host.test", "user or password"],
    ["https://user@host.test", "user or password"],
    ["https://@host.test", "user or password"],
    ["https://good.test\\@evil.test", "backslashes"],
    ["https://good.test\\evil", "backslashes"],
    ["https://ho st.test", "spaces"],
    ["https://host.test/a b", "spaces"],
    ["https://host.test?key=sk-secret", "query"],
    ["https://host.test/v1?", "query"],
    ["https://host.test/#a", "query or a fragment"],
    ["http://0x7f.1", "unusual form; write it as 127.0.0.1"],
    ["http://0177.0.0.1", "unusual form"],
    ["http://2130706433", "unusual form"],
    ["http://127.1", "unusual form"],
    ["http://0xa9fea9fe", "unusual form"],
    ["http://0251.0376.0251.0376", "unusual form"],
    ["http://127.0.0.1.", "unusual form"],
    ["http://%31%32%37.0.0.1", "unusual form"],
    ["http://[0:0:0:0:0:0:0:1]", "unusual form; write it as [::1]"],
    ["http://[::ffff:127.0.0.1]", "unusual form"],
    ["https://bücher.example", "unusual form; write it as xn--bcher-kva.example"],
    ["http://ⓛocalhost", "unusual form"],
    ["http://１２７.0.0.1", "unusual form"],
    ["https://host.test.", "dot"],
    ["http://localhost.:80", "dot"],
    ["https://host.test:0", "port"],
    ["https://host.test:", "port"],
    ["https://host.test:99999", "not a valid URL"],
    ["https://host.test:abc", "not a valid URL"],
    ["http://[::1", "not a valid URL"],
    ["https://host.test/a/../b", "unusual path"],
    ["https://host.test//a", "unusual path"],
    ["https://host.test/%2e%2e/b", "unusual path"],
    ["http://169.254.169.254", "metadata service"],
    ["http://169.254.169.254:80/latest/", "metadata service"],
    ["http://[fd00:ec2::254]", "metadata service"],
    ["http://[::ffff:a9fe:a9fe]", "metadata service"],
    ["http://[64:ff9b::a9fe:a9fe]", "metadata service"],
    ["http://metadata.google.internal", "metadata service"],
    ["http://METADATA.google.internal/computeMetadata", "metadata service"],
    ["http://100.100.100.200", "metadata service"],
    ["http://metadata", "metadata service"],
  ])("refuses %s", (url, reason) => {
    const error = (() => {
      try {
        return checkBaseUrl(url);
      } catch (thrown) {
        return thrown;
      }
    })();
    expect(error).toBeInstanceOf(Error);
    expect((error as Error).message).toMatch(/^base_url/);
    expect((error as Error).message).toContain(reason);
    expect((error as Error).message).not.toContain("sk-secret");
  });
});

describe("checkProxyUrl", () => {
  it("takes http and https, with or without a user", () => {
    expect(checkProxyUrl("http://user:p%40ss@proxy.corp:3128").username).toBe("user");
    expect(checkProxyUrl("https://10.0.0.1:3128/").host).toBe("10.0.0.1:3128");
  });

  it.each([
    "socks5://proxy:1",
    "proxy:3128",
    "http://user:secret@0x7f.1",
    "http://proxy/path",
    "http://proxy?x=secret",
    "http://user:secret@169.254.169.254",
  ])("refuses %s", (url) => {
    expect(() => checkProxyUrl(url)).toThrow(/^proxy_url(?!.*secret)/);
  });
});

describe("refusedHost", () => {
  it("lets private literals pass, because writing them is the permission", () => {
    expect([refusedHost("10.0.0.1"), refusedHost("[::1]"), refusedHost("localhost"), refusedHost("api.openai.com")]).toEqual([
      null,
      null,
      null,
      null,
    ]);
  });
});
