import type { Codec } from "../codec.ts";
import { decodeAnswer, decodeError, encodeAnswer, encodeUsage } from "./answer.ts";
import { decodeRequest } from "./decode-request.ts";
import { openaiDecoder } from "./decode-stream.ts";
import { encodeRequest } from "./encode-request.ts";
import { openaiEncoder } from "./encode-stream.ts";

/** Chat completions from and to the neutral form. */
export const openaiCodec: Codec = {
  decodeRequest,
  encodeRequest,
  decodeAnswer,
  encodeAnswer,
  decoder: openaiDecoder,
  encoder: openaiEncoder,
  encodeUsage,
  decodeError,
};
