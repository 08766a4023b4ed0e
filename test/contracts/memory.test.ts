import { describe, it } from "vitest";
import { memoryStore } from "../../src/stores/memory.ts";
import { storeContract } from "../../src/testing/store-contract/store-contract.ts";

storeContract({ describe, it }, (clock) => memoryStore({ clock }), { name: "memory" });
