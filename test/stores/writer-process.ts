// A process that writes to a ledger until it has written enough or is killed. It prints a line only for what was acknowledged, with a
// synchronous write, so that a line the parent has read stands for a promise that was kept before the kill.
import { writeSync } from "node:fs";

import { postgresStore } from "../../src/stores/postgres/index.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { intentOf, rowOf } from "../contracts/ledger-rows.ts";

const [place = "", name = "", mode = "", count = "0"] = process.argv.slice(2);
const say = (line: string): void => void writeSync(1, `${line}\n`);

// A server that fails under it ends it: only what was acknowledged before counts.
process.once("uncaughtException", (error) => {
  say(`failed ${error.message}`);
  process.exit(1);
});

const store = place.startsWith("postgres") ? postgresStore(place) : sqliteStore(place);
try {
  await store.ready();
} catch (error) {
  say(`refused ${(error as Error).message}`);
  process.exit(1);
}
say("ready");

for (let round = 0; round < Number(count); round += 1) {
  const ids = Array.from({ length: 1 + (round % 5) }, (_, n) => `${name}-${round}-${n}`);
  await Promise.all(ids.map((id) => store.ledger.intent(intentOf(id))));
  for (const id of ids) say(`intent ${id}`);
  if (mode === "intents") continue;
  // Two of three end; their flush is the acknowledgement.
  const ended = ids.filter((_, n) => (round + n) % 3 !== 0);
  for (const id of ended) store.ledger.close(rowOf(id));
  if (mode === "records") await store.records.put(`${name}/${round}`, round);
  await store.ledger.flush();
  for (const id of ended) say(`row ${id}`);
}
if (mode === "left") say("left open");
else if (mode !== "idle") await store.close();
else setInterval(() => {}, 60_000);
