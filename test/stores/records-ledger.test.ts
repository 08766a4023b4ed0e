import { memoryStore } from "../../src/stores/memory.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { recordsLedgerContract } from "../contracts/store-records-ledger.ts";
import { tempFolder } from "./sqlite-kit.ts";

recordsLedgerContract("memory", (clock) => memoryStore({ clock }));
recordsLedgerContract("sqlite on a file", (clock) => sqliteStore(`${tempFolder()}/ledger.db`, { clock }));
recordsLedgerContract("sqlite in memory", (clock) => sqliteStore(":memory:", { clock }));
