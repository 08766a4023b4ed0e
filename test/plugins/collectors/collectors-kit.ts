/** Credentials, and a local server that answers as it is told. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Credential } from "../../../src/core/credential.ts";
import { Secret } from "../../../src/core/secret.ts";
import { providerRow } from "../../../src/upstream/providers.ts";

export const NOW = Date.UTC(2026, 0, 1);

export const inMs = (ms: number): string => new Date(NOW + ms).toISOString();

/** As `resolveCredential` makes one of the configuration. */
export function credentialOf(provider: string, more: Partial<Credential> = {}): Credential {
  const known = providerRow(provider);
  const row = known.of ? { ...known, ...known.of(more) } : known;
  const { origin, pathname } = new URL(row.baseUrl ?? "https://elsewhere.example");
  return {
    name: provider,
    provider,
    row,
    apiKey: new Secret("a-token-of-a-test"),
    origin,
    basePath: pathname === "/" ? "" : pathname,
    models: null,
    isFallback: false,
    priority: 0,
    weight: 1,
    tier: null,
    headers: {},
    allowPrivate: false,
    proxyUrl: null,
    rpm: -1,
    tpm: -1,
    maxConcurrent: -1,
    ...more,
  };
}

export interface Asked {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

export type Script = (asked: Asked, res: ServerResponse) => void;

export interface QuotaServer {
  readonly url: string;
  readonly asked: Asked[];
  /** From now on. */
  answer(script: Script): void;
  close(): Promise<void>;
}

export const json =
  (body: unknown, status = 200, headers: Readonly<Record<string, string>> = {}): Script =>
  (_asked, res) =>
    void res.writeHead(status, { "content-type": "application/json", ...headers }).end(typeof body === "string" ? body : JSON.stringify(body));

export const hang: Script = () => undefined;

export async function quotaServer(first: Script = json({})): Promise<QuotaServer> {
  const asked: Asked[] = [];
  let script = first;
  const server = createServer((req, res) => {
    const chunks: Buffer[] = [];
    req.on("data", (chunk: Buffer) => chunks.push(chunk));
    req.on("end", () => {
      const one = { method: req.method ?? "", url: req.url ?? "", headers: req.headers, body: Buffer.concat(chunks).toString() };
      asked.push(one);
      script(one, res);
    });
  });
  await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    answer: (next) => void (script = next),
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
