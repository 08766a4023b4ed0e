/** What Kiro speaks: requests in JSON, answers as AWS event streams and never whole. No caller speaks it. */
import type { ProviderCodec } from "../codec.ts";
import { encodeRequest } from "./encode-request.ts";
import { kiroDecoder } from "./decode-stream.ts";
import { decodeError } from "./errors.ts";

export const kiro: ProviderCodec = {
  encodeRequest,
  decodeAnswer: () => null,
  decoder: kiroDecoder,
  decodeError,
};
