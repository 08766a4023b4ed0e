import { GuardError } from "../core/errors.ts";

/** More names than a header can carry. */
const MOST_NAMED = 50;

/** What is lost when a request or an answer goes from one dialect to another. One per attempt. */
export interface Losses {
  /**
   * Something that changes the meaning and cannot be expressed: throws `untranslatable` that names the field; where the operator allows losses, it is dropped
   * and named. `field` as the caller wrote it: `messages[2].content[0]`.
   */
  cannot(field: string, why: string): void;
  /** Something that only tunes: dropped, and named where the operator wants to know. */
  drops(field: string): void;
  /** What was dropped so far, in order, each once. */
  readonly dropped: readonly string[];
}

/** `lossy` = the operator prefers an answer without it to none. */
export function losses(lossy: boolean): Losses {
  const dropped = new Set<string>();
  const note = (field: string): void => {
    if (dropped.size < MOST_NAMED) dropped.add(field);
  };
  return {
    cannot(field, why) {
      if (!lossy) throw new GuardError("untranslatable", `${field}: ${why}`, { param: field });
      note(field);
    },
    drops: note,
    get dropped() {
      return [...dropped];
    },
  };
}
