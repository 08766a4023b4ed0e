/**
 * Tools for testing an app that uses quotaguard: a scripted provider, recordings of a real one, a clock that a test moves, a store that fails when a test
 * says so, the contract of a store of your own, and a check that nothing was lost or spent twice.
 */
export type { Invariant } from "../core/audit.ts";
export type { Violation } from "../metering/conservation.ts";
export { testClock, type TestClock, type TestClockOptions } from "./clock.ts";
export { ConservationError, expectConserved, type ConservationOptions, type Conserved } from "./conservation/expect-conserved.ts";
export type { Billing } from "./conservation/truth.ts";
export type { FakeAnswer, FakeToolCall, FakeUsage } from "./fake-answers.ts";
export { fakeInputTokens } from "./fake-answers.ts";
export type { FakeFault, FakeReply } from "./fake-exchange.ts";
export { fakeUpstream, type FakeRequest, type FakeScript, type FakeUpstream, type FakeUpstreamOptions } from "./fake-upstream.ts";
export { faultyStore, type FaultyStore, type FaultyStoreOptions, type StoreFault, type StoreFaultRule } from "./faulty-store.ts";
export type { StorePlace } from "./tapped-store.ts";
export { pacer, type Pacer } from "./pacer.ts";
export { recordUpstream, type RecordUpstreamOptions, type UpstreamRecorder } from "./recording/record-upstream.ts";
export { replayUpstream, type ReplayUpstreamOptions, type UpstreamReplay } from "./recording/replay-upstream.ts";
export { recordingStore, type RecordingStore, type RecordingStoreOptions, type StoreRecording, type Verb } from "./recording-store.ts";
export { storeContract, type ContractPart, type ContractRunner, type StoreContractOptions } from "./store-contract/store-contract.ts";
export { digestOf, type TokenCount, type TruthEnd, type TruthEntry, type TruthTotals } from "./truth-log.ts";
