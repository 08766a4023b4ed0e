import type { Dialect } from "../dialect.ts";
import { openaiCodec } from "./codec.ts";
import { readRequest, rewriteRequest } from "./request.ts";
import { errorBody, readResponse } from "./response.ts";
import { openaiObserver } from "./stream.ts";

/** OpenAI's chat completions, completions and embeddings. */
export const openai: Dialect = {
  id: "openai",
  routes: [
    { method: "POST", path: "/v1/chat/completions", operation: "chat" },
    { method: "POST", path: "/v1/completions", operation: "completions" },
    { method: "POST", path: "/v1/embeddings", operation: "embeddings" },
  ],
  read: readRequest,
  rewrite: rewriteRequest,
  readResponse,
  observer: openaiObserver,
  errorBody,
  codec: openaiCodec,
  errorEvent: (error) => Buffer.from(`data: ${JSON.stringify(errorBody(error))}\n\n`),
};
