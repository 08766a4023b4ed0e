import type { ServerResponse } from "node:http";
import type { GuardError } from "../core/errors.ts";
import { problemRefusal } from "./render.ts";
import { writeHead } from "./write-head.ts";

/** Answers with a refusal as RFC 9457, outside of any step. */
export function asProblem(error: GuardError, res: ServerResponse): void {
  const { status, headers, body } = problemRefusal(error);
  const bytes = body as Buffer;
  writeHead(res, status, [...headers, "content-length", String(bytes.length), "cache-control", "no-store"]);
  res.end(bytes);
}
