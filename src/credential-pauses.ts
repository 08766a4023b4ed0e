/** Keeping a credential out by a person's or a plugin's word, and letting it in again. */
import type { PauseOptions } from "./core/admin.ts";
import type { Credential } from "./core/credential.ts";
import { GuardError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import { hint } from "./core/nearest.ts";
import { LAST_MOMENT_MS, type Clock } from "./core/time.ts";
import type { CredentialSet } from "./pool/credential-set.ts";
import type { Pauses } from "./pool/pauses.ts";

const REASON = /^\P{Cc}{1,200}$/u;

export interface CredentialPausesParts {
  readonly credentials: CredentialSet;
  readonly pauses: Pick<Pauses, "get" | "set" | "end">;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Those that may be sent anything now, as they are at each look. */
export function notPaused(credentials: Iterable<Credential>, pauses: Pick<Pauses, "get">): Iterable<Credential> {
  return {
    *[Symbol.iterator]() {
      for (const credential of credentials) if (!pauses.get(credential.name)) yield credential;
    },
  };
}

export interface CredentialPauses {
  pause(credential: string, options: PauseOptions): Promise<void>;
  resume(credential: string): Promise<boolean>;
}

export function credentialPauses({ credentials, pauses, clock, logger }: CredentialPausesParts): CredentialPauses {
  function check(name: string): void {
    // One that is gone, or has not come yet, may be paused still.
    if (credentials.find(name) || pauses.get(name)) return;
    const names = credentials.all.map((credential) => credential.name);
    throw new GuardError("not_found", `there is no credential ${name.slice(0, 64)}${hint(name, names)}`);
  }

  return {
    async pause(credential, { reason, until = null }) {
      check(credential);
      if (typeof reason !== "string" || !REASON.test(reason)) {
        throw new GuardError("body_invalid", "reason: expected 1 to 200 characters that tell people why", { param: "reason" });
      }
      const since = clock.now();
      if (until !== null && !(Number.isSafeInteger(until) && until > since && until <= LAST_MOMENT_MS)) {
        throw new GuardError("body_invalid", "until: expected a time that is still to come, or none", { param: "until" });
      }
      if (!pauses.set(credential, { reason, since, until })) throw new GuardError("overloaded", "too many credentials are paused; resume some first");
      logger.warn({ credential, reason, until }, "a credential is paused");
    },

    async resume(credential) {
      check(credential);
      const was = pauses.end(credential);
      if (was) logger.warn({ credential }, "a credential is lent again");
      return was;
    },
  };
}
