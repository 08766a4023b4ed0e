/** AWS event streams: frames of typed headers and a payload, with checksums. https://smithy.io/2.0/aws/amazon-eventstream.html */
import { createRequire } from "node:module";
import type { EventStreamCodec } from "@smithy/eventstream-codec";
import { GuardError } from "../../core/errors.ts";
import type { JsonObject } from "../message.ts";
import { parsedObject } from "../parsed-object.ts";

/** Lengths of the whole and of the headers, and their checksum. */
const PRELUDE_BYTES = 12;
/** A frame without headers and payload. */
const LEAST_BYTES = 16;
/** As large as a frame may be. */
const MOST_BYTES = 10 * 1024 * 1024;

/** One frame: its headers that are text, and its payload. Null = that is no JSON object. */
export interface Frame {
  readonly headers: Readonly<Record<string, string>>;
  readonly payload: JsonObject | null;
}

export interface FrameReader {
  /** Throws `upstream_protocol` for what is no frame. */
  push(chunk: Buffer): readonly Frame[];
  /** The body is over. Throws `upstream_protocol` when it ended inside a frame. */
  end(): void;
}

type Library = typeof import("@smithy/eventstream-codec");

let codec: EventStreamCodec | undefined;

/** The library takes its time to load, and only those who ask a provider of this kind need it. */
export function frameCodec(): EventStreamCodec {
  if (codec) return codec;
  const { EventStreamCodec: Codec } = createRequire(import.meta.url)("@smithy/eventstream-codec") as Library;
  return (codec = new Codec(textOf, (text) => Buffer.from(text)));
}

const textOf = (bytes: Uint8Array | string): string =>
  typeof bytes === "string" ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString();

const broken = (why: string, cause?: unknown): GuardError =>
  new GuardError("upstream_protocol", `the upstream's event stream ${why}`, cause === undefined ? {} : { cause });

/** Takes a stream apart, wherever it is cut. Holds one frame at most. */
export function frameReader(): FrameReader {
  let waiting: Buffer[] = [];
  let size = 0;
  /** Of the frame that has begun; null = not all of its prelude is here. */
  let wanted: number | null = null;

  /** All that waits, in one piece. */
  function joined(): Buffer {
    const bytes = waiting.length === 1 ? (waiting[0] as Buffer) : Buffer.concat(waiting, size);
    waiting = [bytes];
    return bytes;
  }

  return {
    push(chunk) {
      waiting.push(chunk);
      size += chunk.length;
      const frames: Frame[] = [];
      while (size >= (wanted ?? PRELUDE_BYTES)) {
        const bytes = joined();
        if (wanted === null) {
          wanted = bytes.readUInt32BE(0);
          if (wanted < LEAST_BYTES || wanted > MOST_BYTES) throw broken(`has a frame of ${wanted} bytes`);
          continue;
        }
        frames.push(frameIn(bytes.subarray(0, wanted)));
        waiting = [bytes.subarray(wanted)];
        size -= wanted;
        wanted = null;
      }
      return frames;
    },
    end() {
      if (size > 0) throw broken("ended inside a frame");
    },
  };
}

function frameIn(bytes: Buffer): Frame {
  const { headers, body } = decoded(bytes);
  const texts = Object.entries(headers).flatMap(([name, { type, value }]) => (type === "string" ? [[name, value] as const] : []));
  return { headers: Object.fromEntries(texts), payload: parsedObject(textOf(body)) };
}

function decoded(bytes: Buffer) {
  try {
    return frameCodec().decode(bytes);
  } catch (error) {
    throw broken("has a damaged frame", error);
  }
}
