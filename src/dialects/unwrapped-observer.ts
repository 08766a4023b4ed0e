import { GuardError } from "../core/errors.ts";
import type { StreamObserver } from "./dialect.ts";
import type { JsonObject } from "./message.ts";
import { isComment, sseReader, type SseEvent } from "./sse-reader.ts";
import { parsedObject } from "./parsed-object.ts";

/** Takes each event of a stream out of what its provider puts around it, before `inner` watches and forwards it. */
export function unwrappedObserver(inner: StreamObserver, unwrap: (body: JsonObject) => JsonObject): StreamObserver {
  const reader = sseReader();

  function written(events: readonly SseEvent[]): Buffer | null {
    let text = "";
    for (const event of events) {
      if (isComment(event)) text += ":\n\n";
      else text += `${event.name === null ? "" : `event: ${event.name}\n`}data: ${unwrappedData(event.data, unwrap)}\n\n`;
    }
    return text === "" ? null : inner.push(Buffer.from(text));
  }

  return {
    push: (chunk) => written(reader.push(chunk)),
    end() {
      // The last event may be half of one: what cannot be read is not passed on.
      const late = written(reader.end().filter((event) => isWhole(event.data)));
      const { rest, ...ended } = inner.end();
      return { ...ended, rest: late && rest ? Buffer.concat([late, rest]) : (late ?? rest) };
    },
    usage: inner.usage,
    deliveredTokens: inner.deliveredTokens,
  };
}

const isWhole = (data: string): boolean => parsedObject(data) !== null;

/** What is no object, such as the end's mark, stays as it is. One line: the data of an event must not end it. */
function unwrappedData(data: string, unwrap: (body: JsonObject) => JsonObject): string {
  const body = parsedObject(data);
  if (!body) {
    if (data.includes("\n")) throw new GuardError("upstream_protocol", "the upstream sent an event that is no JSON");
    return data;
  }
  return JSON.stringify(unwrap(body));
}
