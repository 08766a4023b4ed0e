// Clients of a gateway, and what they saw.
import { randomUUID } from "node:crypto";

import { keyOf } from "./gateway.ts";
import { pause } from "./limits-load.ts";
import { random, type Random } from "./random.ts";

export interface Seen {
  readonly requestId: string;
  readonly scopes: Readonly<Record<string, string>>;
  readonly stream: boolean;
  /** 0 = the connection broke before an answer. */
  readonly status: number;
  readonly code: string | null;
  readonly retryAfter: string | null;
  /** The whole answer arrived; of a stream, with its end. */
  readonly finished: boolean;
  readonly ms: number;
}

export interface Ask {
  readonly url: string;
  readonly scopes: Readonly<Record<string, string>>;
  readonly stream?: boolean;
  /** Words of the message beside the request's id: each costs a token. */
  readonly words?: number;
  readonly maxTokens?: number;
  /** Another word of the message, for the upstream's script. */
  readonly mark?: string;
}

/** One chat completion. Its message begins with the request's id, so that the upstream's truth log names it. Never rejects. */
export async function ask({ url, scopes, stream = false, words = 3, maxTokens = 20, mark = "plain" }: Ask): Promise<Seen> {
  const requestId = randomUUID();
  const from = performance.now();
  const seen = { requestId, scopes, stream };
  let status = 0;
  let retryAfter: string | null = null;
  try {
    const response = await fetch(`${url}/llm/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${keyOf(scopes)}`, "x-request-id": requestId },
      body: JSON.stringify({
        model: "gpt-4o-mini",
        messages: [{ role: "user", content: [requestId, mark, ...Array.from({ length: words }, (_, n) => `word${n}`)].join(" ") }],
        max_tokens: maxTokens,
        stream,
      }),
    });
    ({ status } = response);
    retryAfter = response.headers.get("retry-after");
    const text = await response.text();
    const code = status === 200 ? null : ((JSON.parse(text) as { error?: { code?: string } }).error?.code ?? null);
    const finished = status !== 200 || !stream || text.includes("[DONE]");
    return { ...seen, status, code, retryAfter, finished, ms: performance.now() - from };
  } catch {
    return { ...seen, status, code: null, retryAfter, finished: false, ms: performance.now() - from };
  }
}

export interface RequestsPlan {
  readonly url: string;
  readonly seed: number;
  readonly workers: number;
  readonly durationMs: number;
  readonly users: number;
  readonly teams: number;
  readonly streamPart: number;
  /** A client waits up to so long before it asks again. */
  readonly thinkMs: number;
}

/** Closed loops of clients over users and teams. */
export async function requestsLoad(plan: RequestsPlan): Promise<Seen[]> {
  const history: Seen[] = [];
  const until = performance.now() + plan.durationMs;
  async function client(chance: Random): Promise<void> {
    while (performance.now() < until) {
      const user = chance.between(0, plan.users - 1);
      const seen = await ask({
        url: plan.url,
        scopes: { user: `u${user}`, team: `t${user % plan.teams}` },
        stream: chance.chance(plan.streamPart),
        words: chance.between(1, 12),
        maxTokens: chance.between(1, 30),
      });
      history.push(seen);
      await pause(chance.between(0, plan.thinkMs));
    }
  }
  const chance = random(plan.seed);
  await Promise.all(Array.from({ length: plan.workers }, () => client(random(Math.floor(chance.next() * 2 ** 32)))));
  return history;
}

/** So many requests a second, whatever becomes of them, until `stop` is called; then waits for those that are under way. */
export function steadyRequests(perSecond: number, one: () => Promise<Seen>): { readonly history: readonly Seen[]; stop(): Promise<void> } {
  const history: Seen[] = [];
  const running = new Set<Promise<unknown>>();
  const timer = setInterval(() => {
    const request = one().then((seen) => void history.push(seen));
    running.add(request);
    void request.finally(() => running.delete(request));
  }, 1_000 / perSecond);
  return {
    history,
    async stop() {
      clearInterval(timer);
      await Promise.all(running);
    },
  };
}
