import type { ScopesInput } from "./scope.ts";

/** A key for a client, as it is asked for. */
export interface NewKey {
  /** 1 to 64 characters of A-Z a-z 0-9 . _ -, beginning with a letter or digit. Appears in logs, rows and the scope `key`; never the key itself. */
  readonly name: string;
  readonly scopes?: ScopesInput | undefined;
  /** The organisation that it belongs to: the same as its scope `org`. It is made when there is none of this name. */
  readonly org?: string | null | undefined;
  /** Model patterns; absent or null = all. */
  readonly models?: readonly string[] | null | undefined;
  /** A date (`2027-01-01`, UTC), an ISO date and time, a Date, or ms since the epoch; absent or null = never. */
  readonly expires?: string | number | Date | null | undefined;
  /** Whether its requests may name their scopes by header. Never another organisation than its own. Default false. */
  readonly mayAssertScopes?: boolean | undefined;
}

/** A key as operators see it. Times are wall clock, ms. */
export interface KeyView {
  readonly name: string;
  /** Its first characters, to tell it by: they are of no use to anybody. */
  readonly prefix: string;
  readonly org: string | null;
  readonly scopes: Readonly<Record<string, string>>;
  /** Null = all. */
  readonly models: readonly string[] | null;
  readonly mayAssertScopes: boolean;
  readonly createdAt: number;
  readonly rotatedAt: number | null;
  readonly expiresAt: number | null;
  /** To the hour; null = not yet. */
  readonly lastUsedAt: number | null;
  /** How long the key before the last rotation works still; null = there is none. */
  readonly previousUntil: number | null;
}

/** The only time that a key is told: what is kept of it is a keyed digest. */
export interface MadeKey {
  readonly key: string;
  readonly view: KeyView;
}

/**
 * Keys of clients that are made at run time, beside those of the configuration. They are kept in the ledger's store and count in all processes that share it, within 2 s.
 * All of them reject with `store_unavailable` while it is away.
 */
export interface KeyAdmin {
  /**
   * Rejects with `body_invalid` for what no key can be, and for a name that is taken; `forbidden` for an organisation that is disabled, and where the store is shared
   * and the ledger is not.
   */
  create(key: NewKey): Promise<MadeKey>;
  /** In the order of their names. */
  list(): Promise<readonly KeyView[]>;
  /**
   * Gives a name another key. The one before works until `overlap` is over (ms, or text such as `24h`; at most 90 days; default 0: it ends at once), one that was before
   * that ends now. Rejects with `not_found`.
   */
  rotate(name: string, options?: { readonly overlap?: number | string | undefined }): Promise<MadeKey>;
  /** Ends all keys of a name. False = there is none. */
  revoke(name: string): Promise<boolean>;
}
