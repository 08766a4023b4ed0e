/** An organisation as operators see it. Times are wall clock, ms. */
export interface OrgView {
  readonly name: string;
  readonly createdAt: number;
  /** Null = it is not. */
  readonly disabledAt: number | null;
}

/**
 * Organisations: whom budgets are sold to. Their limits are those of the scope `org` (`admin.limits.set("org-month", "acme", …)`), their members' counters are
 * their own. They are kept in the ledger's store. All reject with `store_unavailable` while it is away.
 */
export interface OrgAdmin {
  /** Rejects with `body_invalid` for a name that no scope can have, or that is taken. */
  create(org: { readonly name: string }): Promise<OrgView>;
  /** In the order of their names. */
  list(): Promise<readonly OrgView[]>;
  /** Refuses whatever has this scope with `forbidden`, in all processes within 2 s; what runs goes on. False = it was disabled already. Rejects with `not_found`. */
  disable(name: string): Promise<boolean>;
  /** False = it was not disabled. Rejects with `not_found`. */
  enable(name: string): Promise<boolean>;
}
