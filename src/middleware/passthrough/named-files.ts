/** Files that a JSON body names: whoever names one must be its owner, in the passthrough lane and in model calls. */
import type { Call } from "../../core/call.ts";
import type { Context } from "../../core/context.ts";
import { GuardError } from "../../core/errors.ts";
import type { MaybePromise } from "../../core/time.ts";
import { tenantOf, type Ownership } from "./ownership.ts";

/** No request needs more; each of them is looked up. */
const MOST_FILES = 64;
const FILE_FIELD = /(?:^|_)file_ids?$/;

/** The ids of all files, wherever they stand: `input_file_id`, `image.file_id`, `file_ids`. */
export function filesIn(fields: Readonly<Record<string, unknown>>): readonly string[] {
  const found = new Set<string>();
  const note = (value: unknown): void => {
    if (typeof value === "string") found.add(value);
    if (found.size > MOST_FILES) throw new GuardError("body_invalid", `the body names more than ${MOST_FILES} files`);
  };
  // The depth was bounded when the body was parsed.
  const walk = (value: object): void => {
    for (const [key, member] of Object.entries(value) as [string, unknown][]) {
      if (FILE_FIELD.test(key)) for (const id of Array.isArray(member) ? (member as unknown[]) : [member]) note(id);
      if (typeof member === "object" && member !== null) walk(member);
    }
  };
  walk(fields);
  return [...found];
}

/** Nearly always: a look at the bytes is all it costs. A letter of a name may be escaped. */
const mayNameFiles = (bytes: Buffer): boolean => bytes.includes("file_id") || bytes.includes("\\u00");

const NONE: readonly string[] = [];

/** The credential that holds the files which a model call names; null = it names none, or may go anywhere. Throws `not_found` for another tenant's. */
export function holderOfFiles(owners: Ownership): (ctx: Context, call: Call) => MaybePromise<string | null> {
  return (ctx, call) => {
    const files = mayNameFiles(call.bytes) ? filesIn(call.body) : NONE;
    if (files.length === 0) return null;
    return owners.holderOf(
      tenantOf(ctx),
      files.map((id) => ({ resource: "files", id })),
    );
  };
}
