export { AT, intentOf, rowOf } from "../../src/testing/store-contract/ledger-rows.ts";
