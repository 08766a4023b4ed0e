import { expect } from "vitest";
import type { Codec } from "../../../src/dialects/codec.ts";
import type { JsonObject } from "../../../src/dialects/message.ts";
import { responsesCodec as codec } from "../../../src/dialects/responses/index.ts";
import { answering, decoded } from "../codec-kit.ts";

/** As the provider says it: of 100 tokens 40 were cached, of 7 three were thoughts. */
export const USAGE = {
  input_tokens: 100,
  input_tokens_details: { cached_tokens: 40 },
  output_tokens: 7,
  output_tokens_details: { reasoning_tokens: 3 },
  total_tokens: 107,
};

/** An event as a client gets it. */
export interface Told {
  readonly type: string;
  readonly sequence_number: number;
  readonly output_index?: number;
  readonly item_id?: string;
  readonly item?: JsonObject;
  readonly delta?: string;
  readonly response?: JsonObject & { readonly output: JsonObject[] };
}

export const toldIn = (text: string): readonly Told[] =>
  text.split("\n\n").flatMap((frame) => {
    const [name, data] = frame.split("\n");
    if (!data?.startsWith("data: ")) return [];
    const parsed = JSON.parse(data.slice(6)) as Told;
    expect(name).toBe(`event: ${parsed.type}`);
    return [parsed];
  });

/** A provider's stream, as a client of another dialect gets it. */
export const toClient = (to: Codec, text: string) => to.encoder(answering()).push(decoded(codec, text).flat());
