import type { IncomingMessage, ServerResponse } from "node:http";
import type { LookupFunction } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import type { GuardedFetch } from "../../src/core/plugin.ts";
import { systemClock, type Clock } from "../../src/core/time.ts";
import { VERSION } from "../../src/core/version.ts";
import { guardedFetch } from "../../src/guarded-fetch.ts";
import { testClock } from "../../src/testing/clock.ts";
import { undiciTransport, type Transport } from "../../src/upstream/transport.ts";
import { serve, type Listening } from "../http/server-kit.ts";
import { hosted, pluginKit } from "./plugin-kit.ts";

type Answering = (req: IncomingMessage, res: ServerResponse, body: string) => void;

let server: Listening;
let answering: Answering;
let seen: { method: string; url: string; headers: IncomingMessage["headers"]; body: string }[];
let transports: Transport[];

beforeEach(async () => {
  seen = [];
  transports = [];
  answering = (_req, res) => void res.end("hello");
  server = await serve((req, res) => {
    let body = "";
    req.on("data", (chunk: Buffer) => (body += chunk.toString()));
    req.on("end", () => {
      seen.push({ method: req.method ?? "", url: req.url ?? "", headers: req.headers, body });
      answering(req, res, body);
    });
  });
});
afterEach(async () => {
  await Promise.all(transports.map((transport) => transport.close()));
});

function fetching({
  clock = systemClock,
  lookup,
  signal = new AbortController().signal,
}: { clock?: Clock; lookup?: LookupFunction; signal?: AbortSignal } = {}): GuardedFetch {
  const transport = undiciTransport({ connectTimeoutMs: 2_000, clock: systemClock, ...(lookup ? { lookup } : {}) });
  transports.push(transport);
  return guardedFetch({ clock, transport: () => transport, signal });
}

/** Every name is this address. */
const namesAre =
  (address: string): LookupFunction =>
  (_name, options, callback) =>
    options.all ? callback(null, [{ address, family: address.includes(":") ? 6 : 4 }]) : callback(null, address, 4);

const refusal = async (call: Promise<unknown>): Promise<GuardError> => {
  const thrown: unknown = await call.then(
    () => new Error("nothing was refused"),
    (error: unknown) => error,
  );
  if (GuardError.is(thrown)) return thrown;
  throw thrown;
};

describe("where a plugin's fetch may go", () => {
  test("nowhere near this machine, unless the very origin is allowed", async () => {
    const fetch = fetching();
    const error = await refusal(fetch(`${server.url}/a`));
    expect([error.code, error.message]).toEqual(["upstream_unreachable", expect.stringContaining("put its origin into allow")]);
    // Addresses are for the log.
    expect(error.message).not.toContain("127.0.0.1");
    expect((error.cause as Error).message).toContain("127.0.0.1");
    const { port } = server;
    for (const allow of [["http://127.0.0.1"], [`http://127.0.0.1:${port + 1}`], [`https://127.0.0.1:${port}`], [`http://localhost:${port}`], []]) {
      expect((await refusal(fetch(`${server.url}/a`, { allow }))).code).toBe("upstream_unreachable");
    }
    expect(seen).toEqual([]);
    expect(await (await fetch(`${server.url}/a`, { allow: ["https://example.org", `${server.url}/`] })).text()).toBe("hello");
    expect(seen).toHaveLength(1);
  });

  test.each([
    "http://localhost",
    "http://LOCALHOST",
    "http://127.1",
    "http://0x7f.1",
    "http://2130706433",
    "http://0",
    "http://10.0.0.1",
    "http://192.168.1.1",
    "http://172.16.0.1",
    "http://100.64.0.1",
    "http://[::1]",
    "http://[::ffff:127.0.0.1]",
    "http://[fd00::1]",
    "http://[64:ff9b::7f00:1]",
    "http://169.254.1.1",
  ])("not to %s", async (origin) => {
    const fetch = fetching();
    const error = await refusal(fetch(`${origin}:${server.port}/`));
    expect(error.message).toContain("private, loopback or a metadata service");
    expect(seen).toEqual([]);
  });

  test.each(["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1"])("not to a name that turns out to be %s", async (address) => {
    const fetch = fetching({ lookup: namesAre(address) });
    const error = await refusal(fetch(`http://innocent.example:${server.port}/`));
    expect(error.message).toContain("private, loopback or a metadata service");
    expect(seen).toEqual([]);
  });

  test("to a name of a private address that the operator named, on a connection of its own", async () => {
    const fetch = fetching({ lookup: namesAre("127.0.0.1") });
    const url = `http://box.internal:${server.port}`;
    expect((await fetch(`${url}/ok`, { allow: [url] })).status).toBe(200);
    // A connection that is open already is no way around.
    expect((await refusal(fetch(`${url}/ok`))).code).toBe("upstream_unreachable");
    expect(seen).toHaveLength(1);
  });

  test.each(["http://169.254.169.254", "http://[fd00:ec2::254]", "http://metadata.google.internal", "http://100.100.100.200"])(
    "never to the metadata service %s, allowed or not",
    async (origin) => {
      const error = await refusal(fetching()(`${origin}/latest`, { allow: [origin] }));
      expect(error.message).toContain("metadata service");
    },
  );

  test("a name of a metadata service's address is refused, allowed or not", async () => {
    const fetch = fetching({ lookup: namesAre("169.254.169.254") });
    expect((await refusal(fetch("http://innocent.example/", { allow: ["http://innocent.example"] }))).code).toBe("upstream_unreachable");
  });

  test.each(["ftp://example.org/", "file:///etc/passwd", "data:text/plain,hello"])("only http: and https:, not %s", async (url) => {
    await expect(fetching()(url)).rejects.toThrow("is not http: or https:");
  });

  test.each(["127.0.0.1", "http://127.0.0.1/path", "http://127.0.0.1:80", "*", "http://user@127.0.0.1"])(
    "allow takes origins, not %s",
    async (entry) => {
      await expect(fetching()(server.url, { allow: [entry] })).rejects.toThrow("allow holds origins");
    },
  );

  test.each([301, 302, 303, 307, 308])("a redirect (%d) is refused and not followed", async (status) => {
    answering = (_req, res) => void res.writeHead(status, { location: `${server.url}/elsewhere` }).end();
    const error = await refusal(fetching()(`${server.url}/a`, { allow: [server.url] }));
    expect([error.code, error.message]).toEqual(["upstream_protocol", expect.stringContaining("redirect")]);
    expect(seen.map(({ url }) => url)).toEqual(["/a"]);
  });

  test("a password in the URL is refused, and not repeated", async () => {
    const thrown: unknown = await fetching()("https://me:top-secret@example.org/").catch((error: unknown) => error);
    expect(thrown).toBeInstanceOf(TypeError);
    expect((thrown as Error).message).toBe("fetch: the URL holds a user or a password; send an authorization header");
  });

  test("whoever asks for redirects is told", async () => {
    await expect(fetching()(server.url, { allow: [server.url], redirect: "follow" })).rejects.toThrow("redirects are never followed");
  });
});

describe("what it sends and returns", () => {
  test("who we are, the caller's headers and body, no cookies of an earlier answer", async () => {
    answering = (_req, res) => void res.writeHead(201, { "set-cookie": ["a=1", "b=2"], "x-test": "yes" }).end('{"ok":true}');
    const fetch = fetching();
    const first = await fetch(`${server.url}/a?b=c`, {
      method: "POST",
      body: JSON.stringify({ hello: 1 }),
      headers: { "x-own": "v", "content-type": "application/json" },
      allow: [server.url],
    });
    expect([first.status, first.headers.get("x-test"), first.headers.getSetCookie(), await first.json()]).toEqual([
      201,
      "yes",
      ["a=1", "b=2"],
      { ok: true },
    ]);
    await fetch(new URL(`${server.url}/d`), {
      body: new URLSearchParams({ e: "f" }),
      method: "PUT",
      headers: { "User-Agent": "own/1" },
      allow: [server.url],
    });
    expect(seen[0]).toMatchObject({
      method: "POST",
      url: "/a?b=c",
      body: '{"hello":1}',
      headers: { "user-agent": `quotaguard/${VERSION}`, "x-own": "v", "content-type": "application/json" },
    });
    expect(seen[1]).toMatchObject({
      method: "PUT",
      url: "/d",
      body: "e=f",
      headers: { "user-agent": "own/1", "content-type": expect.stringContaining("x-www-form-urlencoded") },
    });
    expect(seen[1]?.headers.cookie).toBeUndefined();
  });

  test("statuses without a body, and errors as answers", async () => {
    const fetch = fetching();
    answering = (_req, res) => void res.writeHead(204).end();
    expect((await fetch(server.url, { allow: [server.url] })).body).toBeNull();
    answering = (_req, res) => void res.writeHead(500).end("broken");
    const failed = await fetch(server.url, { allow: [server.url] });
    expect([failed.ok, failed.status, await failed.text()]).toEqual([false, 500, "broken"]);
  });

  test.each(["host", "Content-Length", "transfer-encoding", "connection"])("the header %s is not the caller's", async (name) => {
    await expect(fetching()(server.url, { allow: [server.url], headers: { [name]: "1" } })).rejects.toThrow(
      `the header ${name.toLowerCase()} is set by the transport`,
    );
  });

  test("no more than maxBytes", async () => {
    answering = (_req, res) => void res.end("x".repeat(1_001));
    const fetch = fetching();
    const error = await refusal(fetch(server.url, { allow: [server.url], maxBytes: 1_000 }));
    expect(error.message).toContain("too large");
    expect(await (await fetch(server.url, { allow: [server.url], maxBytes: 1_001 })).text()).toHaveLength(1_001);
  });

  test("no longer than timeoutMs for a body that does not end, and its maker is told", async () => {
    const clock = testClock();
    let told: unknown;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(Buffer.from("once upon a time")),
      cancel: (reason) => void (told = reason),
    });
    const init = { allow: [server.url], timeoutMs: 500, method: "POST", body, duplex: "half" } as const;
    const asking = refusal(fetching({ clock })(server.url, init));
    clock.advance(500);
    const error = await asking;
    expect([error.code, told, seen]).toEqual(["upstream_timeout", error, []]);
  });

  test("a body that does not end ends with the plugin", async () => {
    const ending = new AbortController();
    const init = { allow: [server.url], method: "POST", body: new ReadableStream(), duplex: "half" } as const;
    const asking = fetching({ signal: ending.signal })(server.url, init);
    const reason = new GuardError("plugin_failed", "torn down");
    ending.abort(reason);
    await expect(asking).rejects.toBe(reason);
  });

  test("a body may be a stream", async () => {
    const body = new Blob(["a stre", "am"]).stream();
    await fetching()(server.url, { allow: [server.url], method: "POST", body, duplex: "half" });
    expect(seen.map((each) => [each.body, each.headers["content-length"]])).toEqual([["a stream", "8"]]);
  });

  test("no longer than timeoutMs, for the whole answer", async () => {
    const clock = testClock();
    const begun = Promise.withResolvers<void>();
    answering = (_req, res) => {
      res.write("half");
      begun.resolve();
    };
    const asking = refusal(fetching({ clock })(server.url, { allow: [server.url], timeoutMs: 500 }));
    await begun.promise;
    clock.advance(500);
    expect((await asking).code).toBe("upstream_timeout");
    expect(clock.pending()).toBe(0);
  });

  test("an abort ends it with its own reason, before and while", async () => {
    const reason = new Error("not any more");
    const fetch = fetching();
    await expect(fetch(server.url, { allow: [server.url], signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const begun = Promise.withResolvers<void>();
    const gone = Promise.withResolvers<void>();
    answering = (req) => {
      req.socket.once("close", () => gone.resolve());
      begun.resolve();
    };
    const controller = new AbortController();
    const asking = fetch(server.url, { allow: [server.url], signal: controller.signal });
    asking.catch(() => {});
    await begun.promise;
    controller.abort(reason);
    await expect(asking).rejects.toBe(reason);
    await gone.promise;
  });

  test("the end of the plugin ends what it fetches", async () => {
    const kit = pluginKit();
    const begun = Promise.withResolvers<void>();
    answering = () => begun.resolve();
    const { host, set } = await hosted(kit, "asking");
    const asking = refusal(host.fetch(server.url, { allow: [server.url] }));
    await begun.promise;
    await set.close();
    expect((await asking).message).toBe("the plugin asking was torn down");
  });
});
