/** When something ends. */
export interface Deadline {
  readonly key: string;
  /** Wall clock, ms. */
  readonly until: number;
}

/**
 * Deadlines, the earliest first: a binary heap, so that a table learns what is over without a walk through all it holds. A deadline that was put off or
 * given up stays inside; whoever takes it out has to see that.
 */
export class Deadlines {
  readonly #heap: Deadline[] = [];

  get size(): number {
    return this.#heap.length;
  }

  get first(): Deadline | undefined {
    return this.#heap[0];
  }

  add(deadline: Deadline): void {
    const heap = this.#heap;
    let place = heap.length;
    while (place > 0) {
      const above = (place - 1) >> 1;
      const parent = heap[above] as Deadline;
      if (parent.until <= deadline.until) break;
      heap[place] = parent;
      place = above;
    }
    heap[place] = deadline;
  }

  takeFirst(): Deadline | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return first;
    let place = 0;
    for (;;) {
      let below = 2 * place + 1;
      if (below >= heap.length) break;
      const right = heap[below + 1];
      if (right && right.until < (heap[below] as Deadline).until) below += 1;
      const child = heap[below] as Deadline;
      if (last.until <= child.until) break;
      heap[place] = child;
      place = below;
    }
    heap[place] = last;
    return first;
  }
}
