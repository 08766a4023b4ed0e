import { GuardError } from "../../core/errors.ts";
import type { RedisLink } from "./link.ts";
import { limitsScript } from "./lua/limits-script.ts";
import { ANSWER } from "./lua/verbs.ts";
import { CallWriter, ReplyReader, type Answer, type Operation } from "./pack.ts";

/** Bounds for one call, which the server runs without a break: about a millisecond. */
const MOST_OPERATIONS = 32;
const MOST_KEYS = 1000;

interface Waiting {
  readonly operation: Operation;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

export interface LimitBatch {
  /** Rejects with `store_unavailable` only. */
  ask(operation: Operation): Promise<Answer>;
}

export interface LimitBatchOptions {
  /** The meta that this process knows now. */
  readonly meta: () => string;
  /** Another meta stands there. */
  readonly onNews: () => void;
}

/**
 * Sends what is asked in one turn of the event loop as one call: keys that several operations share are read and written once, and neither side pays for a
 * command per operation. Each operation has its own answer; they are decided in the order in which they were asked.
 */
export function limitBatch(link: RedisLink, { meta, onNews }: LimitBatchOptions): LimitBatch {
  const writer = new CallWriter(link.prefix);
  let waiting: Waiting[] = [];

  function flush(): void {
    const all = waiting;
    if (all.length === 0) return;
    waiting = [];
    const known = meta();
    let call: Waiting[] = [];
    for (const each of all) {
      const { operation } = each;
      if (operation.verb === "reserve" && operation.meta !== known) {
        // Numbers that changed since then: the server would say the same.
        each.resolve({ code: ANSWER.stale });
        continue;
      }
      if (call.length === MOST_OPERATIONS || writer.keyCount >= MOST_KEYS || writer.clashes(operation)) {
        send(call, known);
        call = [];
      }
      writer.add(operation);
      call.push(each);
    }
    if (call.length > 0) send(call, known);
  }

  function send(call: readonly Waiting[], known: string): void {
    const { keys, blob } = writer.take(link.testTime?.() ?? -1);
    link.run(limitsScript, keys, [known, blob], true).then(
      (reply) => deliver(call, reply, keys),
      (error: unknown) => fail(call, 0, error),
    );
  }

  function deliver(call: readonly Waiting[], reply: unknown, keys: readonly string[]): void {
    let answered = 0;
    try {
      const reader = new ReplyReader(reply as Buffer, keys);
      if (reader.isNews) onNews();
      for (const { operation, resolve } of call) {
        const answer = reader.next(operation);
        answered += 1;
        resolve(answer);
      }
    } catch (error) {
      fail(call, answered, error);
    }
  }

  return {
    ask: (operation) =>
      new Promise((resolve, reject) => {
        const count = waiting.push({ operation, resolve, reject });
        // A full call goes at once, so that the server is at work while the next one is put together.
        if (count === MOST_OPERATIONS) flush();
        else if (count === 1) setImmediate(flush);
      }),
  };
}

/** Each operation gets an error of its own: one belongs to one request, which writes its id into it. */
function fail(call: readonly Waiting[], from: number, error: unknown): void {
  for (let i = from; i < call.length; i += 1) (call[i] as Waiting).reject(unavailable(error));
}

/** What a request is told when its limits cannot be decided. */
export function unavailable(cause: unknown): GuardError {
  const known = GuardError.is(cause) && cause.code === "store_unavailable" ? cause : undefined;
  const message = known?.message ?? "the store of the limits cannot be used at the moment: try again shortly";
  return new GuardError("store_unavailable", message, {
    cause: known?.cause ?? cause,
    ...(known?.retryAfterMs === undefined ? {} : { retryAfterMs: known.retryAfterMs }),
  });
}
