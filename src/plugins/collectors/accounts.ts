/** The accounts that are asked about: those of the guard that a collector knows how to ask for, as they come, change and go. */
import { hash } from "node:crypto";
import type { Credential } from "../../core/credential.ts";
import type { PluginCredentials } from "../../core/plugin.ts";
import type { Clock } from "../../core/time.ts";
import type { Collector, CollectorId } from "./collector.ts";
import type { Outcome } from "./outcome.ts";

/** Enough to see that something changed, far too little to try tokens against. */
const MARK_CHARS = 6;

/** `waiting`: nobody has asked yet. */
export type OutcomeKind = Outcome["kind"] | "waiting";

/** What came of asking about an account, as all processes know it. */
export interface Run {
  readonly outcome: Exclude<OutcomeKind, "waiting">;
  /** Tells one login from another, and nothing of it. */
  readonly login: string;
  readonly reason: string | null;
  /** Of the scarcest quota; null = nobody knows. */
  readonly left: number | null;
  /** Failures in a row. */
  readonly failures: number;
  /** Wall clock, ms: when it was asked. */
  readonly at: number;
  /** Wall clock, ms: when it last said something. */
  readonly seenAt: number | null;
  /** Wall clock, ms. */
  readonly nextAt: number;
}

export interface Account {
  readonly name: string;
  readonly collector: Collector;
  credential: Credential;
  run: Run | null;
  /** Wall clock, ms: what was learnt before that is not enough. */
  wantedAt: number;
  /** Monotonic, ms. */
  dueAt: number;
  /** A person asked for it: breakers do not count. */
  isForced: boolean;
  running: Promise<void> | null;
  /** Ends the pause before its question. */
  hurry: (() => void) | null;
}

export interface Accounts {
  readonly all: ReadonlyMap<string, Account>;
  /** Takes over who is there now. */
  follow(): void;
  /** How many collectors have an account. */
  readonly kinds: number;
  /** What is left of a collector's accounts in the mean, 0 to 1; null = nobody knows. */
  meanLeft(id: CollectorId): number | null;
}

export function accountsOf(
  collectors: readonly Collector[],
  credentials: Pick<PluginCredentials, "list" | "get">,
  clock: Pick<Clock, "now" | "monotonic">,
): Accounts {
  const byProvider = new Map(collectors.map((collector) => [collector.provider, collector]));
  const all = new Map<string, Account>();
  let kinds = 0;

  function look(name: string, provider: string): void {
    const collector = byProvider.get(provider);
    const credential = collector && credentials.get(name);
    if (!collector || !credential?.apiKey || collector.applies?.(credential) === false) return void all.delete(name);
    const account = all.get(name);
    if (account?.collector !== collector) {
      all.set(name, { name, collector, credential, run: null, wantedAt: 0, dueAt: clock.monotonic(), isForced: false, running: null, hurry: null });
      return;
    }
    if (account.credential === credential) return;
    const isSameLogin = loginOf(account.credential) === loginOf(credential);
    account.credential = credential;
    if (isSameLogin) return;
    // What was learnt with the old login says nothing about the new one.
    account.wantedAt = clock.now();
    account.dueAt = clock.monotonic();
  }

  return {
    all,
    get kinds() {
      return kinds;
    },
    follow() {
      const listed = new Set<string>();
      for (const { name, provider } of credentials.list()) {
        listed.add(name);
        look(name, provider);
      }
      for (const name of all.keys()) if (!listed.has(name)) all.delete(name);
      kinds = new Set([...all.values()].map(({ collector }) => collector.id)).size;
    },
    meanLeft(id) {
      let sum = 0;
      let count = 0;
      for (const { collector, run } of all.values()) {
        const left = run?.left ?? null;
        if (collector.id !== id || left === null) continue;
        sum += left;
        count += 1;
      }
      return count === 0 ? null : sum / count;
    },
  };
}

/** What was learnt with one login says nothing of another, not even after a restart. */
export const markOf = (credential: Credential): string => hash("sha256", loginOf(credential), "base64url").slice(0, MARK_CHARS);

const loginOf = ({ apiKey, origin, basePath }: Credential): string => `${origin}${basePath}\n${apiKey?.reveal() ?? ""}`;
