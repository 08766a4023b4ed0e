import { inject } from "vitest";
import type { BrokerAnswer, ServerName } from "./servers.ts";

/**
 * The URL of a real server that the tests of this run share; undefined = there is none on this machine (then skip by name). It starts on first
 * use. Ask at the top of the file: `const redisUrl = await testServer("redis"); describe.skipIf(redisUrl === undefined)("…", …)`.
 * Others use the same server at the same time, and it may be a person's own: use random key prefixes or a schema of your own, never FLUSHALL.
 */
export async function testServer(name: ServerName): Promise<string | undefined> {
  const response = await fetch(`${inject("testServers")}/${name}`);
  const answer = (await response.json()) as BrokerAnswer;
  if ("error" in answer) throw new Error(answer.error);
  return "url" in answer ? answer.url : undefined;
}
