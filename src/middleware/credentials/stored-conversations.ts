/** Conversations that a provider keeps under an id: they are the account's, and an account is lent to many. */
import type { Call } from "../../core/call.ts";
import type { Context } from "../../core/context.ts";
import { GuardError } from "../../core/errors.ts";

/** What names one in a Responses request. */
const FIELDS = ["previous_response_id", "conversation"] as const;

/** Nobody says to which tenant an id belongs, and the next request may go to another account. Calls of the host itself have no tenant. */
export function refuseStored({ principal }: Context, { dialect, body }: Call): void {
  if (dialect !== "responses" || principal === undefined) return;
  const named: string | undefined = FIELDS.find((field) => (body[field] ?? null) !== null) ?? referenceIn(body.input);
  if (named === undefined) return;
  const message = `${named}: what a provider keeps belongs to an account that others use, too; send the whole input, with store: false`;
  throw new GuardError("untranslatable", message, { param: named });
}

function referenceIn(input: unknown): string | undefined {
  if (!Array.isArray(input)) return undefined;
  const at = input.findIndex(
    (item: unknown) => typeof item === "object" && item !== null && (item as { readonly type?: unknown }).type === "item_reference",
  );
  return at < 0 ? undefined : `input[${at}]`;
}
