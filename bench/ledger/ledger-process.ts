/**
 * One ledger in a process of its own: takes a pace over HTTP and answers with what it measured.
 * Arguments: which one, the URL of Postgres ("" = none), a folder for its files.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { json } from "node:stream/consumers";
import { memoryStore, type LedgerStore } from "quotaguard";
import { postgresStore } from "quotaguard/stores/postgres";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { serve } from "../targets/serve.ts";
import { arrivals, type Pace } from "./arrivals.ts";

const [, , id = "", postgresUrl = "", folder = "."] = process.argv;

function ledgerStore(): LedgerStore | null {
  switch (id) {
    case "idle":
    case "arrivals":
      return null;
    case "memory":
      return memoryStore();
    case "sqlite":
      return sqliteStore(join(folder, "ledger.db"));
    case "sqlite-full":
      return sqliteStore(join(folder, "ledger.db"), { synchronous: "full" });
    case "postgres":
      return postgresStore(postgresUrl);
    default:
      throw new Error(`there is no ledger ${id}`);
  }
}

const store = ledgerStore();
await store?.ready();

function answer(req: IncomingMessage, res: ServerResponse): void {
  const done = (status: number, body: unknown): void => void res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  json(req)
    .then((pace) => arrivals(store?.ledger ?? null, pace as Pace))
    .then((result) => done(200, result))
    .catch((error: unknown) => done(500, { error: error instanceof Error ? error.message : String(error) }));
}

serve(answer, async () => {
  await store?.close();
});
