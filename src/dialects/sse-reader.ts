import { createParser } from "eventsource-parser";
import { StringDecoder } from "node:string_decoder";

import { GuardError } from "../core/errors.ts";
import { MAX_EVENT_BYTES } from "./sse.ts";

export interface SseEvent {
  /** The `event` field; null = there was none. */
  readonly name: string | null;
  readonly data: string;
}

export interface SseReader {
  /** The events that are complete with this chunk, however chunks and events are cut. Comments are events without data. */
  push(chunk: Buffer): readonly SseEvent[];
  /** The body is over: the event whose empty line is missing, if there is one. It may be half of one. */
  end(): readonly SseEvent[];
}

const COMMENT: SseEvent = { name: "comment", data: "" };

/** Reads server-sent events. Throws `upstream_protocol` when one grows without end. */
export function sseReader(): SseReader {
  const decoder = new StringDecoder("utf8");
  let found: SseEvent[] = [];
  const parser = createParser({
    onEvent: ({ event, data }) => found.push({ name: event ?? null, data }),
    onComment: () => found.push(COMMENT),
  });
  let open = 0;

  return {
    push(chunk) {
      found = [];
      parser.feed(decoder.write(chunk));
      open = found.length > 0 ? 0 : open + chunk.length;
      if (open > MAX_EVENT_BYTES) throw new GuardError("upstream_protocol", "the upstream sent an event of more than 1 MiB");
      return found;
    },
    end() {
      found = [];
      parser.feed(`${decoder.end()}\n\n`);
      return found;
    },
  };
}

export const isComment = (event: SseEvent): boolean => event === COMMENT;
