/** Organisations: whom budgets are sold to, and the end of that. */
import { GuardError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import type { OrgAdmin, OrgView } from "./core/org-admin.ts";
import { scopeValue, type Scopes } from "./core/scope.ts";
import type { RecordStore, StoredRecord } from "./core/store.ts";
import type { Clock } from "./core/time.ts";

const ORGS = "org/";
/** They are looked up in memory: refusing one must not need a database. */
const MOST_DISABLED = 100_000;
const MOST_TRIES = 5;

interface OrgRecord {
  readonly createdAt: number;
  readonly disabledAt: number | null;
}

export interface Organisations extends OrgAdmin {
  /** Makes it unless it is there. Rejects with `forbidden` when it is disabled. */
  join(name: string): Promise<void>;
  /** Throws `forbidden` for scopes of a disabled one. */
  check(scopes: Scopes | undefined): void;
  /** Reads which are disabled, and listens from then on. */
  load(): Promise<void>;
  close(): void;
}

export interface OrganisationsParts {
  readonly records: RecordStore;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Throws where nothing may be made. */
  readonly mayMake: () => void;
}

const recordKey = (name: string): string => ORGS + encodeURIComponent(name);
const nameOf = (key: string): string => decodeURIComponent(key.slice(ORGS.length));
const viewOf = (name: string, { createdAt, disabledAt }: OrgRecord): OrgView => ({ name, createdAt, disabledAt });

export function organisations({ records, clock, logger, mayMake }: OrganisationsParts): Organisations {
  const disabled = new Set<string>();
  let stop: (() => void) | undefined;

  function take(key: string, record: StoredRecord | undefined): void {
    const name = nameOf(key);
    const isOff = record !== undefined && (record.value as OrgRecord).disabledAt !== null;
    if (isOff && disabled.size < MOST_DISABLED) disabled.add(name);
    else if (!isOff) disabled.delete(name);
  }

  function refused(name: string): GuardError {
    return new GuardError("forbidden", `the organisation ${name} is disabled; ask the operator`, { scope: "org" });
  }

  function make(name: string): Promise<number | undefined> {
    mayMake();
    return Promise.resolve(records.put(recordKey(name), { createdAt: clock.now(), disabledAt: null } satisfies OrgRecord, { ifAbsent: true }));
  }

  async function change(name: string, isOff: boolean): Promise<boolean> {
    for (let n = 0; n < MOST_TRIES; n += 1) {
      const record = await records.get(recordKey(name));
      if (!record) throw new GuardError("not_found", `there is no organisation ${name.slice(0, 128)}`);
      const { createdAt, disabledAt } = record.value as OrgRecord;
      if ((disabledAt !== null) === isOff) return false;
      if (isOff && disabled.size >= MOST_DISABLED)
        throw new GuardError("overloaded", `${MOST_DISABLED} organisations are disabled; end their keys instead`);
      const next: OrgRecord = { createdAt, disabledAt: isOff ? clock.now() : null };
      const version = await records.put(recordKey(name), next, { ifVersion: record.version });
      if (version === undefined) continue;
      take(recordKey(name), { key: recordKey(name), value: next, version });
      logger.warn({ org: name }, isOff ? "an organisation is disabled" : "an organisation is enabled again");
      return true;
    }
    throw new GuardError("overloaded", `the organisation ${name} is being changed by others; try again`, { retryAfterMs: 1_000 });
  }

  return {
    async create(org) {
      const name = orgName(org?.name);
      if ((await make(name)) === undefined) throw new GuardError("body_invalid", `name: there is an organisation ${name} already`, { param: "name" });
      logger.info({ org: name }, "an organisation was made");
      return viewOf(name, (await records.get(recordKey(name)))?.value as OrgRecord);
    },
    list: async () => (await records.list(ORGS)).map(({ key, value }) => viewOf(nameOf(key), value as OrgRecord)),
    disable: (name) => change(name, true),
    enable: (name) => change(name, false),
    async join(name) {
      const record = await records.get(recordKey(name));
      if (record === undefined) await make(orgName(name));
      else if ((record.value as OrgRecord).disabledAt !== null) throw refused(name);
    },
    check(scopes) {
      if (disabled.size === 0) return;
      const org = scopes?.org;
      if (org !== undefined && disabled.has(org)) throw refused(org);
    },
    async load() {
      // What is heard while the list is read is newer than the list.
      let heard: Set<string> | undefined = new Set();
      stop = records.watch(ORGS, (key, record) => {
        heard?.add(key);
        take(key, record);
      });
      for (const record of await records.list(ORGS)) if (!heard.has(record.key)) take(record.key, record);
      heard = undefined;
    },
    close: () => stop?.(),
  };
}

function orgName(name: unknown): string {
  if (typeof name !== "string") throw new GuardError("body_invalid", "name: is required (text)", { param: "name" });
  try {
    return scopeValue("org", name);
  } catch {
    throw new GuardError("body_invalid", "name: must be 1 to 128 characters of A-Z a-z 0-9 . _ @ : -", { param: "name" });
  }
}
