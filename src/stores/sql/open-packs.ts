import type { GuardError } from "../../core/errors.ts";
import type { LedgerIntent } from "../../core/ledger.ts";
import { packIntent } from "./ledger-rows.ts";
import { QUEUE_ROWS } from "./row-queue.ts";

/** The intents of one tick: one row, one promise, whatever their number. */
export interface Pack {
  body: string;
  /** Of how many requests the finished row is not committed yet. */
  open: number;
  /** Its number in the database; 0 = it is not there. */
  seq: number;
  readonly committed: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: GuardError) => void;
}

/** Which pack holds the intent of which open request, so that empty packs can be deleted. */
export class OpenPacks {
  /** Only a shortcut: what it does not know is found again when the owner signs off. */
  readonly #packs = new Map<string, Pack>();
  /** Packs whose requests have all ended, to be deleted with the next commit. */
  emptied: Pack[] = [];
  /** False = there were too many, so there are packs in the database that it does not know. */
  isComplete = true;

  /** Adds the intent to the pack that is being collected, or begins one. */
  add(row: LedgerIntent, collecting: Pack | null): Pack {
    const text = packIntent(row);
    const pack = collecting ?? newPack();
    pack.body += pack.body === "" ? text : `,${text}`;
    pack.open += 1;
    // A further attempt of the same request: its new intent stands for the old one.
    const before = this.#packs.get(row.id);
    this.#packs.set(row.id, pack);
    if (before !== undefined) this.#leaveOne(before);
    else if (this.#packs.size > QUEUE_ROWS) {
      this.#packs.delete(this.#packs.keys().next().value as string);
      this.isComplete = false;
    }
    return pack;
  }

  /** The request's finished row is committed. */
  leave(id: string): void {
    const pack = this.#packs.get(id);
    if (pack === undefined) return;
    this.#packs.delete(id);
    this.#leaveOne(pack);
  }

  /** Another process has closed what this one had written before. */
  forget(except: Pack | null): void {
    for (const [id, pack] of this.#packs) if (pack !== except) this.#packs.delete(id);
  }

  refuse(pack: Pack, error: GuardError): void {
    for (const [id, known] of this.#packs) if (known === pack) this.#packs.delete(id);
    pack.reject(error);
  }

  /** The numbers of all packs with open requests. */
  numbers(): number[] {
    return [...new Set(this.#packs.values())].filter(({ seq }) => seq > 0).map(({ seq }) => seq);
  }

  #leaveOne(pack: Pack): void {
    pack.open -= 1;
    if (pack.open === 0) this.emptied.push(pack);
  }
}

function newPack(): Pack {
  let resolve!: () => void;
  let reject!: (error: GuardError) => void;
  const committed = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { body: "", open: 0, seq: 0, committed, resolve, reject };
}
