import { describe, it } from "vitest";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { storeContract } from "../../src/testing/store-contract/store-contract.ts";
import { testServer } from "../setup/test-server.ts";
import { ownSchema } from "../stores/postgres-kit.ts";

const url = (await testServer("postgres")) ?? "";

describe.skipIf(url === "")("the contract on a Postgres server", () => {
  storeContract({ describe, it }, (clock) => postgresStore(url, { schema: ownSchema(url), clock }), {
    name: "postgres",
    parts: ["records", "ledger"],
  });
});
