/** Tools for testing an app that uses quotaguard: a scripted provider, a clock that a test moves, and the contract of a store of your own. */
export { testClock, type TestClock, type TestClockOptions } from "./clock.ts";
export type { FakeAnswer, FakeUsage } from "./fake-answers.ts";
export { fakeInputTokens } from "./fake-answers.ts";
export type { FakeFault, FakeReply } from "./fake-exchange.ts";
export { fakeUpstream, type FakeRequest, type FakeScript, type FakeUpstream, type FakeUpstreamOptions } from "./fake-upstream.ts";
export { pacer, type Pacer } from "./pacer.ts";
export { digestOf, type TruthEnd, type TruthEntry, type TruthTotals } from "./truth-log.ts";
export { storeContract, type ContractPart, type ContractRunner, type StoreContractOptions } from "./store-contract/store-contract.ts";
