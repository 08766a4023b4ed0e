/**
 * Carries a request to the provider and its answer's bytes back. The streaming, the backpressure and the early ends are http-proxy-middleware's; both heads,
 * all deadlines and everything the client is told are ours. So it is shown neither the client's request nor the client's response: it gets a request as the
 * provider may see it, and a response that only tells it when to stop.
 */
import { IncomingMessage, ServerResponse, type Agent, type ClientRequest } from "node:http";
import type { Socket } from "node:net";
import type { Readable } from "node:stream";
import { createProxyMiddleware, type RequestHandler } from "http-proxy-middleware";

/** What is told of a cargo. Nothing is told after `stop`, but a failure, which then means nothing. */
export interface Recipient {
  /** There is a connection: the body begins to flow. */
  connected(request: ClientRequest): void;
  /** The answer's head. Whoever takes it reads the body. */
  answered(answer: IncomingMessage): void;
  failed(error: Error): void;
}

export interface Cargo {
  /** Scheme, host and port. */
  readonly origin: string;
  readonly agent: Agent;
  readonly method: string;
  /** With the query. */
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body: Readable;
  /** The client's connection. */
  readonly client: Socket;
  readonly recipient: Recipient;
}

export interface Carriage {
  /** Ends it, at once if it is under way; a connection whose exchange is complete is kept. Idempotent. */
  stop(): void;
}

class OutgoingView extends IncomingMessage {
  readonly cargo: Cargo;

  constructor(cargo: Cargo) {
    super(cargo.client);
    this.cargo = cargo;
    this.method = cargo.method;
    this.url = cargo.path;
    this.headers = cargo.headers;
  }
}

type Handler = RequestHandler<OutgoingView>;

function proxyHandler(): Handler {
  return createProxyMiddleware<OutgoingView>({
    router(view, _response, options) {
      options.agent = view.cargo.agent;
      options.buffer = view.cargo.body;
      return view.cargo.origin;
    },
    changeOrigin: true,
    selfHandleResponse: true,
    followRedirects: false,
    // Timers of its own would run on the system's clock, and one of them would stay on the client's connection.
    timeout: 0,
    proxyTimeout: 0,
    // Its plugins log to the console and answer errors with a text that names the request's URL.
    ejectPlugins: true,
    plugins: [
      (server) => {
        server.on("proxyReq", (request, view) => view.cargo.recipient.connected(request));
        server.on("proxyRes", (answer, view) => view.cargo.recipient.answered(answer));
        server.on("error", (error, view) => view?.cargo.recipient.failed(error));
        server.on("econnreset", (error, view) => view.cargo.recipient.failed(error));
      },
    ],
  });
}

export type Carrier = (cargo: Cargo) => Carriage;

export function carrier(): Carrier {
  const proxy = proxyHandler();
  return function carry(cargo) {
    const view = new OutgoingView(cargo);
    const end = new ServerResponse(view);
    void proxy(view, end, (error) => {
      cargo.recipient.failed(error instanceof Error ? error : new Error("the request was not taken to the provider"));
    });
    let isStopped = false;
    return {
      stop() {
        if (isStopped) return;
        isStopped = true;
        end.emit("close");
      },
    };
  };
}
