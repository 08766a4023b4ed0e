/** For the tests of a Nest app that uses quotaguard. */
export { withMemoryStore } from "./with-memory-store.ts";
