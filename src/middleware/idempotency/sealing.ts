import { ConfigError, GuardError } from "../../core/errors.ts";
import type { Logger } from "../../core/logger.ts";
import type { SecretBox } from "../../core/secret-box.ts";
import type { RecordStore, StoredRecord } from "../../core/store.ts";
import { CLAIMS, type Kept, type KeptAnswer } from "./claims.ts";

/** An answer in a database that others may read, or copy: it has what somebody's customers were told. */
type Sealed = Omit<Extract<Kept, { state: "answered" }>, "answer"> & { readonly sealed: string };

/**
 * Records whose answers only the secret key opens, and only under their own key. One that cannot be opened is lost, and stays charged: who asks again is told, and
 * nothing is sent.
 */
export function sealing(records: RecordStore, box: SecretBox, logger: Logger): RecordStore {
  let isTold = false;

  function opened(record: StoredRecord | undefined): StoredRecord | undefined {
    if (record === undefined || !record.key.startsWith(CLAIMS)) return record;
    const value = record.value as Kept | Sealed;
    if (!("sealed" in value)) return record;
    const { sealed, ...about } = value;
    return { ...record, value: { ...about, ...answerIn(sealed, record.key) } satisfies Kept };
  }

  function answerIn(
    sealed: string,
    place: string,
  ): { readonly state: "answered"; readonly answer: KeptAnswer } | { readonly state: "lost"; readonly why: "dropped" } {
    try {
      return { state: "answered", answer: JSON.parse(box.open(sealed, place).reveal()) as KeptAnswer };
    } catch (error) {
      if (!GuardError.is(error) && !(error instanceof ConfigError)) throw error;
      if (!isTold)
        logger.warn({ err: error }, "an answer that was kept for its Idempotency-Key cannot be opened: it is not given again, and stays charged");
      isTold = true;
      return { state: "lost", why: "dropped" };
    }
  }

  return {
    ...records,
    async get(key) {
      return opened(await records.get(key));
    },
    put(key, value, how) {
      const kept = value as Kept;
      if (!key.startsWith(CLAIMS) || kept.state !== "answered") return records.put(key, value, how);
      const { answer, ...about } = kept;
      return records.put(key, { ...about, sealed: box.seal(JSON.stringify(answer), key) } satisfies Sealed, how);
    },
  };
}
