/** A provider may send anything, and what reads it may give up: then this attempt has failed, and nothing else. */
import { GuardError } from "../../core/errors.ts";
import type { StreamObserver } from "../../dialects/dialect.ts";
import type { Collector, WholeAnswer, Wire } from "./wire.ts";

export interface SteadyWire extends Omit<Wire, "whole"> {
  /** The answer, or why it is none. */
  whole(bytes: Buffer): WholeAnswer | GuardError;
}

const faultOf = (error: unknown): GuardError =>
  GuardError.is(error) ? error : new GuardError("upstream_protocol", "the upstream sent what cannot be read", { cause: error });

/** Of what reads an answer only `push` may throw, and only a `GuardError`. */
export function steadyWire(wire: Wire): SteadyWire {
  return {
    ...wire,
    observer: (options) => steady(wire.observer(options)),
    collector: (options) => {
      const inner = wire.collector(options);
      return Object.assign(steady(inner), { answer: inner.answer.bind(inner) }) satisfies Collector;
    },
    whole(bytes) {
      try {
        return wire.whole(bytes) ?? new GuardError("upstream_protocol", "the upstream's answer is not a JSON object of its dialect");
      } catch (error) {
        return faultOf(error);
      }
    },
    opensWith(bytes) {
      try {
        return wire.opensWith(bytes);
      } catch (error) {
        return faultOf(error);
      }
    },
  };
}

/** After a fault nothing more is read: what was counted until then stands. */
function steady(inner: StreamObserver): StreamObserver {
  let fault: GuardError | undefined;

  function known<T>(read: () => T, otherwise: T): T {
    try {
      return read();
    } catch (error) {
      fault ??= faultOf(error);
      return otherwise;
    }
  }

  return {
    push(chunk) {
      if (fault) throw fault;
      try {
        return inner.push(chunk);
      } catch (error) {
        throw (fault = faultOf(error));
      }
    },
    end: () => (fault ? null : known(() => inner.end(), null)) ?? { rest: null, complete: false, ...(fault ? { fault } : {}) },
    usage: () => known(() => inner.usage(), null),
    deliveredTokens: () => known(() => inner.deliveredTokens(), 0),
  };
}
