/** The longest delay that a timer of the system takes, about 24 days. */
const LONG_MS = 2 ** 31 - 1;

/**
 * Keeps the process alive until `work` is over. Our timers never do: without this a process that waits for nothing but a server that does not answer would
 * end in the middle of it, with success.
 */
export function awake<T>(work: Promise<T>): Promise<T> {
  const handle = setInterval(() => {}, LONG_MS);
  return work.finally(() => clearInterval(handle));
}
