/** What a progress line is written to: standard error, so that a table can be piped while a person watches. */
export interface ProgressTarget {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

export interface Progress {
  /** So many more are done. */
  advance(more?: number): void;
  /** Removes the line. */
  clear(): void;
}

/** A line such as `asking providers 2/5` that is written over itself; nothing where nobody looks. `total` null = nobody knows it. */
export function progress(what: string, total: number | null, target: ProgressTarget = process.stderr): Progress {
  let done = 0;
  let width = 0;
  const show = (text: string): void => {
    if (!target.isTTY || total === 0) return;
    target.write(`\r${text.padEnd(width)}${text === "" ? "\r" : ""}`);
    width = text.length;
  };
  const count = (): void => show(total === null ? `${what} ${done}` : `${what} ${done}/${total}`);
  count();
  return {
    advance(more = 1) {
      done += more;
      count();
    },
    clear: () => show(""),
  };
}
