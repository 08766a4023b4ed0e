// The same suite on other databases: a file says where its gateways keep things, and then loads the suite.
import { randomUUID } from "node:crypto";
import { onTestFinished } from "vitest";
import type { GuardOptions, LedgerStore, Store } from "quotaguard";
import { postgresStore } from "quotaguard/stores/postgres";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { systemClock, type Clock } from "../../src/core/time.ts";
import { ownSchema } from "../stores/postgres-kit.ts";
import { folder } from "./child.ts";

/** Options of one gateway, whose stores are its own, live by its clock and go with the test. */
export type Place = (clock?: Clock) => Pick<GuardOptions, "store" | "ledger" | "secrets">;

let place: Place = () => ({});

/** From here on gateways of this test file keep there what they count and write down, unless a test names its own. Default: in memory. */
export function keepIn(next: Place): void {
  place = next;
}

export const kept: Place = (clock) => place(clock);

/** Closed once the test has closed its gateway. */
function closedAfterwards<T extends LedgerStore>(store: T): T {
  onTestFinished(async () => {
    await store.close();
  });
  return store;
}

const secrets = { key: "a-secret-key-for-tests-0001" };

/** A test that goes on by a month is not to wait for a month of a store's own beats. */
const timeOf = (clock: Clock | undefined): { readonly clock?: Clock } => (clock ? { clock: { ...clock, timer: systemClock.timer } } : {});

export const onSqlite: Place = (clock) => {
  const files = folder();
  onTestFinished(() => files.remove());
  const store = closedAfterwards<Store>(sqliteStore(`${files.path}/quota.db`, timeOf(clock)));
  return { store, ledger: store, secrets };
};

/** Counters in Redis, rows in a schema of their own on Postgres. */
export const onServers =
  (redisUrl: string, postgresUrl: string): Place =>
  (clock) => {
    const schema = ownSchema(postgresUrl);
    return {
      store: closedAfterwards(
        redisStore(redisUrl, { partition: randomUUID(), ...timeOf(clock), ...(clock ? { serverTime: () => clock.now() } : {}) }),
      ),
      ledger: closedAfterwards(postgresStore(postgresUrl, { schema, ...timeOf(clock) })),
      secrets,
    };
  };
