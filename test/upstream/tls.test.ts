import { createServer, type Server } from "node:https";
import type { AddressInfo, LookupFunction } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { undiciTransport, type Transport } from "../../src/upstream/transport.ts";
import { testCertificate, type TestCertificate } from "./certificate.ts";
import { chatRequest, collect } from "./collect.ts";

const servers: Server[] = [];
const transports: Transport[] = [];

afterEach(async () => {
  for (const transport of transports.splice(0)) await transport.close();
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

async function serve(
  certificate: TestCertificate,
): Promise<{ readonly port: number; readonly seen: { requests: number; protocol: string | null; resumed: boolean } }> {
  const seen = { requests: 0, protocol: null as string | null, resumed: false };
  const server = createServer({ ...certificate, ALPNProtocols: ["h2", "http/1.1"] }, (_request, response) => {
    seen.requests += 1;
    response.end("secret");
  });
  server.on("secureConnection", (socket) => {
    seen.protocol = socket.alpnProtocol || null;
    seen.resumed = socket.isSessionReused();
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { port: (server.address() as AddressInfo).port, seen };
}

const local: LookupFunction = (_host, options, done) =>
  options.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4);

function trusting(certificate: TestCertificate | null): Transport {
  const transport = undiciTransport({ connectTimeoutMs: 5_000, lookup: local, ...(certificate ? { ca: certificate.cert } : {}) });
  transports.push(transport);
  return transport;
}

const ask = (transport: Transport, host: string, port: number) =>
  collect(transport, chatRequest(`https://${host}:${port}`, {}, { allowPrivate: true })).done;

describe("TLS", () => {
  it("speaks HTTP/1.1 with a certificate that it trusts, by name and by address", async () => {
    const certificate = testCertificate({ names: ["provider.test", "127.0.0.1"] });
    const { port, seen } = await serve(certificate);
    const transport = trusting(certificate);
    expect((await ask(transport, "provider.test", port)).text).toBe("secret");
    expect((await ask(transport, "127.0.0.1", port)).text).toBe("secret");
    expect(seen).toMatchObject({ requests: 2, protocol: "http/1.1" });
  });

  it("sends nothing to a server whose certificate is self-signed, for another name, or expired", async () => {
    const good = testCertificate({ names: ["provider.test"] });
    const expired = testCertificate({ names: ["provider.test"], notAfter: new Date(Date.now() - 86_400_000) });
    for (const [certificate, trusted, host] of [
      [good, null, "provider.test"],
      [good, good, "other.test"],
      [expired, expired, "provider.test"],
    ] as const) {
      const { port, seen } = await serve(certificate);
      const { error, sent } = await ask(trusting(trusted), host, port);
      expect([error?.code, sent, seen.requests]).toEqual(["upstream_unreachable", false, 0]);
      expect(error?.message).toContain("TLS failed");
      expect(error?.message).not.toContain(".test");
    }
  });
});
