/** Calls to a server of this machine. Nothing goes anywhere but to 127.0.0.1: no name is looked up, no proxy asked, no redirect followed. */
import { connect } from "node:net";
import { request as requestHttp, type IncomingMessage } from "node:http";
import { request as requestHttps } from "node:https";
import type { Clock } from "../../../core/time.ts";
import { isFields, type Fields } from "../fields.ts";

const ADDRESS = "127.0.0.1";
const CALL_MS = 2_000;
const MOST_BYTES = 2 * 1024 * 1024;

export interface LoopbackServer {
  readonly scheme: "http" | "https";
  readonly port: number;
  readonly csrf: string;
}

/** Whether anybody listens on a port of this machine. Never rejects. */
export function isListening(port: number, clock: Pick<Clock, "timer">): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: ADDRESS, port });
    const end = (answer: boolean): void => {
      timer.cancel();
      resolve(answer);
      socket.destroy();
    };
    const timer = clock.timer(CALL_MS, () => end(false));
    socket.on("connect", () => end(true));
    socket.on("error", () => end(false));
  });
}

/** The JSON object that a POST is answered with; null = no answer within 2 s, no status 200, or no object. Never rejects. */
export function callLoopback(
  server: LoopbackServer,
  path: string,
  body: Fields,
  clock: Pick<Clock, "timer">,
  signal: AbortSignal,
): Promise<Fields | null> {
  return new Promise((resolve) => {
    const { scheme, port, csrf } = server;
    const bytes = Buffer.from(JSON.stringify(body));
    const headers = {
      "content-type": "application/json",
      "content-length": bytes.length,
      "connect-protocol-version": "1",
      "x-codeium-csrf-token": csrf,
    };
    const options = { host: ADDRESS, port, path, method: "POST", headers, agent: false };
    // Such a server makes a certificate of its own, which proves nothing: that it is ours says its process, and who is logged in says itself.
    const call = scheme === "http" ? requestHttp(options) : requestHttps({ ...options, rejectUnauthorized: false });
    const end = (answer: Fields | null): void => {
      timer.cancel();
      signal.removeEventListener("abort", giveUp);
      resolve(answer);
      call.destroy();
    };
    const giveUp = (): void => end(null);
    const timer = clock.timer(CALL_MS, giveUp);
    signal.addEventListener("abort", giveUp, { once: true });
    call.on("error", giveUp);
    call.on("response", (response) => void readObject(response).then(end, giveUp));
    if (signal.aborted) giveUp();
    else call.end(bytes);
  });
}

async function readObject(response: IncomingMessage): Promise<Fields | null> {
  if (response.statusCode !== 200) return null;
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MOST_BYTES) return null;
    chunks.push(chunk);
  }
  const body: unknown = JSON.parse(Buffer.concat(chunks).toString());
  return isFields(body) ? body : null;
}
