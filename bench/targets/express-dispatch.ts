/** The floor for a proxy inside Express: undici's dispatch level, one write per tick, back-pressure and aborts, and nothing of a gateway. */
import express, { type Request, type Response } from "express";
import { Agent, type Dispatcher } from "undici";
import { serve, upstreamOrigin } from "./serve.ts";

const HOP_BY_HOP = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);
const GONE = new Error("the client is gone");

const agent = new Agent({ connections: 256, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });

/** One exchange: what undici reports goes to the response. */
class Relay implements Dispatcher.DispatchHandler {
  readonly #res: Response;
  #controller: Dispatcher.DispatchController | null = null;
  #chunks: Buffer[] = [];
  #scheduled = false;
  #ended = false;

  constructor(res: Response) {
    this.#res = res;
    res.on("drain", () => this.#controller?.resume());
    // 'drain' never comes on a closed response: without this an exchange that is paused then keeps its upstream connection for good.
    res.on("close", () => {
      if (!this.#ended) this.#controller?.abort(GONE);
    });
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#res.closed) throw GONE;
    this.#controller = controller;
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number, headers: Record<string, string | string[] | undefined>): void {
    if (status < 200 || this.#res.closed) return;
    this.#res.statusCode = status;
    for (const name in headers) {
      const value = headers[name];
      if (value !== undefined && !HOP_BY_HOP.has(name)) this.#res.setHeader(name, value);
    }
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#schedule();
  }

  onResponseEnd(): void {
    this.#ended = true;
    this.#schedule();
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    this.#ended = true;
    if (this.#res.closed) return;
    if (this.#res.headersSent || this.#chunks.length > 0) return void this.#res.destroy();
    this.#res.status(502).type("text").send(`upstream failed: ${error.message}`);
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    this.#scheduled = false;
    if (this.#res.closed) return;
    const [first] = this.#chunks;
    const data = this.#chunks.length === 1 ? first : first && Buffer.concat(this.#chunks);
    this.#chunks = [];
    if (this.#ended) this.#res.end(data);
    else if (data && !this.#res.write(data)) this.#controller?.pause();
  }
}

function forward(req: Request, res: Response, body: Buffer): void {
  const headers: string[] = [];
  for (let i = 0; i < req.rawHeaders.length; i += 2) {
    const name = req.rawHeaders[i] ?? "";
    const lower = name.toLowerCase();
    if (lower !== "host" && lower !== "content-length" && !HOP_BY_HOP.has(lower)) headers.push(name, req.rawHeaders[i + 1] ?? "");
  }
  agent.dispatch({ origin: upstreamOrigin, path: req.url, method: req.method, headers, body: body.length > 0 ? body : null }, new Relay(res));
}

const app = express();
app.use((req, res) => {
  const chunks: Buffer[] = [];
  req.on("data", (chunk: Buffer) => chunks.push(chunk));
  req.on("end", () => forward(req, res, chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks)));
});
serve(app, () => agent.destroy());
