/** Something that can be in one {@link OpenSet}. */
export interface Placed {
  /** Where it stands; the set's business. */
  place: number;
}

/**
 * A set whose members come and go with every request. Not a `Set`: an engine's hash table, once outgrown, still points to its successor, so tables that
 * are dead but old keep the young ones, and whatever they hold, alive until the next full collection.
 */
export class OpenSet<T extends Placed> implements Iterable<T> {
  readonly #members: T[] = [];

  get size(): number {
    return this.#members.length;
  }

  add(member: T): void {
    member.place = this.#members.length;
    this.#members.push(member);
  }

  /** Its place goes to the last one. */
  delete(member: T): void {
    if (this.#members[member.place] !== member) return;
    const last = this.#members.pop() as T;
    if (last !== member) {
      this.#members[member.place] = last;
      last.place = member.place;
    }
    member.place = -1;
  }

  [Symbol.iterator](): Iterator<T> {
    // A copy: whoever walks may add and delete.
    return [...this.#members].values();
  }
}
