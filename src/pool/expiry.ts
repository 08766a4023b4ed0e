/** Tokens that have run out: not lent while somebody gets new ones, and lent all the same when nobody does. */
import type { Credential } from "../core/credential.ts";
import type { Clock } from "../core/time.ts";
import type { Block } from "./block-table.ts";
import type { CredentialSet } from "./credential-set.ts";

/** When to look again where nobody says when the next token comes. */
const LOOK_AGAIN_MS = 1_000;

export interface Expiry {
  /** Nothing has run out: one comparison, except where a token is near its end. */
  readonly isQuiet: boolean;
  blockOf(credential: Credential): Block | null;
  /** Who gets new tokens: `renews` tells whether somebody does for a credential, `nextAt` when it is tried again (wall clock, ms; null = now). */
  renewedBy(renewal: Renewal): void;
  /** What `renews` answers has changed. */
  renew(): void;
}

export interface Renewal {
  renews(credential: Credential): boolean;
  nextAt(credential: string): number | null;
}

const NOBODY: Renewal = { renews: () => false, nextAt: () => null };

export function expiry({ credentials, clock }: { readonly credentials: CredentialSet; readonly clock: Clock }): Expiry {
  let renewal = NOBODY;
  /** Wall clock, ms. */
  let earliest = Infinity;

  function renew(): void {
    earliest = Infinity;
    for (const credential of credentials) {
      const { expiresAt = null } = credential;
      if (expiresAt !== null && expiresAt < earliest && renewal.renews(credential)) earliest = expiresAt;
    }
  }
  credentials.onChange(renew);

  return {
    get isQuiet() {
      return earliest === Infinity || clock.now() < earliest;
    },
    blockOf(credential) {
      const { name, expiresAt = null } = credential;
      const now = clock.now();
      if (expiresAt === null || now < expiresAt || !renewal.renews(credential)) return null;
      const until = Math.max(renewal.nextAt(name) ?? 0, now + LOOK_AGAIN_MS);
      return {
        reason: "cooling",
        credential: name,
        model: null,
        code: 401,
        note: "its token has expired; a new one is being asked for",
        since: expiresAt,
        until,
      };
    },
    renewedBy(given) {
      renewal = given;
      renew();
    },
    renew,
  };
}
