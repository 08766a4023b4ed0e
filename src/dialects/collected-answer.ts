import { GuardError } from "../core/errors.ts";
import type { Usage } from "../core/usage.ts";
import { settledStop, type AssistantBlock, type BlockStart, type ChatAnswer, type ChatEvent, type Signature, type StopReason } from "./message.ts";

/** As large as a whole answer may be. */
const MOST_CHARS = 32 * 1024 * 1024;

interface OpenBlock {
  readonly start: BlockStart;
  readonly choice: number;
  text: string;
  signature: Signature | null;
}

export interface CollectedAnswer {
  push(events: readonly ChatEvent[]): void;
  /** The answer that the stream told, as if it had come whole; null = it had no proper end. */
  answer(): ChatAnswer | null;
}

/** Puts a stream together. Throws `upstream_protocol` for one that grows without end, and `upstream_refused` for a provider that said it failed. */
export function collectedAnswer(): CollectedAnswer {
  let id: string | null = null;
  let model: string | null = null;
  let usage: Usage | null = null;
  let ended = false;
  let chars = 0;
  const blocks = new Map<number, OpenBlock>();
  const stops = new Map<number, { readonly reason: StopReason; readonly stopSequence: string | null }>();

  function take(event: ChatEvent): void {
    switch (event.type) {
      case "start":
        id ??= event.id;
        model ??= event.model;
        break;
      case "open":
        blocks.set(event.key, { start: event.block, choice: event.choice, text: "", signature: null });
        break;
      case "delta": {
        const block = blocks.get(event.key);
        if (block) block.text += event.text;
        chars += event.text.length;
        if (chars > MOST_CHARS) throw new GuardError("upstream_protocol", "the provider's answer is larger than 32 MiB; ask for less in one request");
        break;
      }
      case "signature": {
        const block = blocks.get(event.key);
        if (block) block.signature = event.signature;
        break;
      }
      case "usage":
        usage = event.usage;
        break;
      case "stop":
        stops.set(event.choice, { reason: event.reason, stopSequence: event.stopSequence });
        break;
      case "end":
        ended = true;
        break;
      case "error":
        throw new GuardError("upstream_refused", event.message);
      case "close":
      case "ping":
    }
  }

  return {
    push(events) {
      for (const event of events) take(event);
    },
    answer() {
      if (!ended) return null;
      const choices = new Set([0, ...stops.keys(), ...[...blocks.values()].map(({ choice }) => choice)]);
      return {
        id,
        model,
        usage,
        choices: [...choices]
          .sort((a, b) => a - b)
          .map((index) => {
            const own = [...blocks.values()].filter(({ choice }) => choice === index).flatMap(finished);
            const { reason = "stop", stopSequence = null } = stops.get(index) ?? {};
            return {
              index,
              blocks: own,
              stop: settledStop(
                reason,
                own.some(({ type }) => type === "tool_call"),
              ),
              stopSequence,
            };
          }),
      };
    },
  };
}

/** An empty text is no block. */
function finished({ start, text, signature }: OpenBlock): readonly AssistantBlock[] {
  switch (start.type) {
    case "text":
      return text === "" ? [] : [{ type: "text", text }];
    case "thinking":
      return text === "" && signature === null ? [] : [{ type: "thinking", text, signature }];
    case "redacted_thinking":
      return [start];
    case "tool_call":
      return [{ ...start, input: text }];
    case "media":
      return [start.block];
  }
}
