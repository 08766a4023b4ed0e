import type { DialectId, WireId } from "../core/call.ts";
import { anthropic } from "./anthropic/index.ts";
import type { ProviderCodec } from "./codec.ts";
import type { Dialect } from "./dialect.ts";
import { gemini } from "./gemini/index.ts";
import { kiro } from "./kiro/index.ts";
import { openai } from "./openai/index.ts";
import { responses } from "./responses/index.ts";
import { likelyDialect, matchAnywhere, pathMatcher, type CallerHeaders, type Matched, type PathMatcher } from "./routes.ts";

export type { CallerHeaders, Matched };

const DIALECTS: Readonly<Record<DialectId, Dialect>> = { openai, anthropic, gemini, responses };

export const dialect = (id: DialectId): Dialect => DIALECTS[id];

/** How a provider's wire format is written and read. */
export const codecOf = (id: WireId): ProviderCodec => (id === "kiro" ? kiro : DIALECTS[id].codec);

export const matchPath: PathMatcher = pathMatcher(Object.values(DIALECTS));

/** Finds an operation of ours behind any prefix: `/api/v1/chat/completions` is still a chat completion. */
export const matchSuffix = (path: string, headers?: CallerHeaders): Matched | undefined => matchAnywhere(matchPath, path, headers);

/** The dialect that a refusal is written in; a path of nobody's is answered in what its caller most likely speaks. */
export function callerDialect(matched: Matched | undefined, path: string, headers: CallerHeaders): DialectId {
  return matched ? matched.dialect : likelyDialect(path, headers);
}
