import { describe, it } from "vitest";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { storeContract } from "../../src/testing/store-contract/store-contract.ts";
import { tempFolder } from "../stores/sqlite-kit.ts";

storeContract({ describe, it }, (clock) => sqliteStore(`${tempFolder()}/quota.db`, { clock }), { name: "sqlite on a file" });
storeContract({ describe, it }, (clock) => sqliteStore(":memory:", { clock }), { name: "sqlite in memory" });
