// kill -9 of gateways whose ledger is away, and of those that write what was kept, many times over.
import { afterAll, afterEach, describe, test } from "vitest";
import { fakeUpstream } from "quotaguard/testing";
import { killedWhileAway, place } from "../e2e/ledger-away-kit.ts";
import { endChildren } from "../helpers/child.ts";
import { ServerMissing } from "../setup/server-process.ts";
import { postgresProcess, type PostgresProcess } from "./kit/postgres-process.ts";

const ROUNDS = 20;

const server: PostgresProcess | undefined = await postgresProcess().catch((error: unknown) => {
  if (error instanceof ServerMissing) return undefined;
  throw error;
});
afterEach(endChildren);
afterAll(() => server?.stop());

describe.skipIf(server === undefined)("gateways whose Postgres goes away", () => {
  test("lose no request that was sent, and count none twice, however often they are killed", { timeout: 600_000 }, async () => {
    const upstream = await fakeUpstream();
    await killedWhileAway(await place((server as PostgresProcess).url), upstream, ROUNDS);
    await upstream.close();
  });
});
