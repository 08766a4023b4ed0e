// Where the lane may connect to: the same guard as on the inference lane, at the moment of dialling.
import { createServer } from "node:https";
import type { AddressInfo, LookupFunction } from "node:net";
import { once } from "node:events";
import { expect, onTestFinished, test } from "vitest";
import { WebSocket, WebSocketServer } from "ws";
import { testCertificate } from "../../upstream/certificate.ts";
import { credential } from "../../pool/pool-kit.ts";
import { ALICE, laneKit, type LaneKit, type LaneKitOptions } from "./lane-kit.ts";
import { json } from "./provider-kit.ts";

/** A name server that always gives the same address. */
const pointsTo =
  (address: string): LookupFunction =>
  (_name, options, done) => {
    if (options.all) done(null, [{ address, family: address.includes(":") ? 6 : 4 }]);
    else done(null, address, address.includes(":") ? 6 : 4);
  };

const ask = async (kit: LaneKit): Promise<[number, string]> => {
  const response = await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } });
  return [response.status, await response.text()];
};

const upgradeStatus = (kit: LaneKit): Promise<number> =>
  new Promise((resolve) => {
    const socket = new WebSocket(`ws://127.0.0.1:${kit.port}/llm/v1/realtime?model=m`, { headers: { authorization: `Bearer ${ALICE}` } });
    onTestFinished(() => socket.terminate());
    socket.on("error", () => undefined);
    socket.once("open", () => resolve(101));
    socket.once("unexpected-response", (_request, response) => resolve(response.resume().statusCode ?? 0));
  });

test.each<[string, string, string | null]>([
  ["a metadata service by its address", "http://169.254.169.254", null],
  ["a metadata service by its name", "http://metadata.google.internal", "93.184.216.34"],
  ["a name that points to a metadata service", "http://files.example", "169.254.169.254"],
  ["a name that points to this machine", "http://files.example", "127.0.0.1"],
  ["a name that points into the private network", "http://files.example", "10.0.0.1"],
  ["a name that points into it by IPv6", "http://files.example", "fd00::1"],
])("%s is never dialled", async (_what, origin, address) => {
  const kit = await laneKit({
    credentials: () => [credential("main", { origin })],
    ...(address === null ? {} : { lane: { lookup: pointsTo(address) } }),
  });
  const [status, text] = await ask(kit);
  expect([status, JSON.parse(text)]).toMatchObject([502, { error: { code: "upstream_unreachable" } }]);
  expect(text).not.toContain(address ?? "169.254");
  expect(await upgradeStatus(kit)).toBe(502);
  expect(kit.logger.lines.some(({ fields }) => String(fields.err).includes("EgressError"))).toBe(true);
});

test("a metadata service is not dialled by the operator's leave either", async () => {
  const kit = await laneKit({
    credentials: () => [credential("main", { origin: "http://files.example", allowPrivate: true })],
    lane: { lookup: pointsTo("169.254.169.254") },
  });
  expect((await ask(kit))[0]).toBe(502);
});

test("a private name is dialled by the operator's leave", async () => {
  const kit = await laneKit({
    credentials: ({ url }) => [credential("main", { origin: url.replace("127.0.0.1", "files.example"), allowPrivate: true })],
    lane: { lookup: pointsTo("127.0.0.1") },
  });
  kit.provider.on("*", json({}));
  expect(await ask(kit)).toEqual([200, "{}"]);
  expect(kit.provider.log[0]?.headers.host).toMatch(/^files\.example:\d+$/);
});

test("each connection is looked up anew: an answer that changes is judged anew", async () => {
  const addresses = ["127.0.0.1", "169.254.169.254"];
  const kit = await laneKit({
    credentials: ({ url }) => [credential("main", { origin: url.replace("127.0.0.1", "files.example"), allowPrivate: true })],
    lane: { lookup: (name, options, done) => pointsTo(addresses.shift() as string)(name, options, done) },
  });
  kit.provider.on("*", (_req, res) => void res.writeHead(200, { connection: "close" }).end("{}"));
  expect([(await ask(kit))[0], (await ask(kit))[0]]).toEqual([200, 502]);
});

async function secureProvider(names: readonly string[], options: Partial<LaneKitOptions["lane"]> = {}): Promise<LaneKit> {
  const { cert, key } = testCertificate({ names });
  const server = createServer({ cert, key }, (_req, res) => void res.writeHead(200, { "content-type": "application/json" }).end('{"secure":true}'));
  const sockets = new WebSocketServer({ server });
  sockets.on("connection", (socket) => socket.on("message", (data) => socket.send(data as Buffer)));
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  onTestFinished(() => {
    for (const socket of sockets.clients) socket.terminate();
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return laneKit({
    credentials: () => [credential("main", { origin: `https://files.example:${port}`, allowPrivate: true })],
    lane: { lookup: pointsTo("127.0.0.1"), ca: cert, ...options },
  });
}

test("TLS carries requests and WebSockets, and its certificate is checked", async () => {
  const kit = await secureProvider(["files.example"]);
  expect(await ask(kit)).toEqual([200, '{"secure":true}']);
  expect(await ask(kit)).toEqual([200, '{"secure":true}']);
  const socket = new WebSocket(`ws://127.0.0.1:${kit.port}/llm/v1/realtime?model=m`, { headers: { authorization: `Bearer ${ALICE}` } });
  onTestFinished(() => socket.terminate());
  await once(socket, "open");
  socket.send("over TLS");
  expect(String(((await once(socket, "message")) as [Buffer])[0])).toBe("over TLS");

  const other = await secureProvider(["other.example"]);
  expect(await ask(other)).toEqual([502, expect.stringContaining("TLS failed")]);
  expect(await upgradeStatus(other)).toBe(502);
});

test("an IPv6 address in brackets is dialled as such", async () => {
  const kit = await laneKit({ credentials: () => [credential("main", { origin: "http://[::1]:1" })] });
  expect(await ask(kit)).toEqual([502, expect.stringMatching(/ECONNREFUSED|EADDRNOTAVAIL|no route/)]);
});

test("closing ends what is being dialled", async () => {
  const kit = await laneKit({ credentials: () => [credential("main", { origin: "http://slow.example" })], lane: { lookup: () => undefined } });
  const pending = ask(kit);
  await expect.poll(() => kit.opened[0]?.attempts).toBe(1);
  for (let i = 0; i < 50; i += 1) await new Promise(setImmediate);
  kit.lane.close();
  expect((await pending)[0]).toBe(502);
});
