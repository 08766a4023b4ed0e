import { GuardError } from "../core/errors.ts";
import type { ChatEvent } from "./message.ts";

/** What may wait for the block before it. */
const MOST_WAITING_CHARS = 4 * 1024 * 1024;

type BlockEvent = Extract<ChatEvent, { readonly key: number }>;

const isOfBlock = (event: ChatEvent): event is BlockEvent => "key" in event;

export interface OneAtATime {
  push(events: readonly ChatEvent[]): readonly ChatEvent[];
}

/**
 * Puts the blocks of a stream behind one another: providers may write several at a time, and some dialects cannot. A block that opens while another one is open
 * waits for its end; so does everything that is no block. At the end of an answer all that is still open is closed.
 */
export function oneAtATime(): OneAtATime {
  let current: number | null = null;
  /** What waits, in the order in which blocks were opened. */
  const waiting = new Map<number, BlockEvent[]>();
  const later: ChatEvent[] = [];
  let chars = 0;

  function hold(list: ChatEvent[], event: ChatEvent): void {
    list.push(event);
    chars += 32 + ("text" in event ? event.text.length : 0);
    if (chars > MOST_WAITING_CHARS) throw new GuardError("upstream_protocol", "the upstream wrote more at a time than can be put in order");
  }

  /** After a block's end: the blocks that waited and have ended, and the first one that has not. */
  function advance(out: ChatEvent[]): void {
    for (const [key, own] of waiting) {
      waiting.delete(key);
      for (const event of own) out.push(event);
      if (own.at(-1)?.type === "close") continue;
      current = key;
      return;
    }
    current = null;
    out.push(...later.splice(0));
    chars = 0;
  }

  function end(out: ChatEvent[]): void {
    while (current !== null) {
      out.push({ type: "close", key: current });
      advance(out);
    }
  }

  return {
    push(events) {
      const out: ChatEvent[] = [];
      for (const event of events) {
        if (!isOfBlock(event)) {
          const closesAll = event.type === "stop" || event.type === "end" || event.type === "error";
          if (closesAll) end(out);
          if (current !== null && event.type !== "ping" && event.type !== "usage") hold(later, event);
          else out.push(event);
        } else if (current === null && event.type === "open") {
          current = event.key;
          out.push(event);
        } else if (event.key === current) {
          out.push(event);
          if (event.type === "close") advance(out);
        } else if (event.type === "open") {
          const own: BlockEvent[] = [];
          waiting.set(event.key, own);
          hold(own, event);
        } else {
          const own = waiting.get(event.key);
          if (own) hold(own, event);
        }
      }
      return out;
    },
  };
}
