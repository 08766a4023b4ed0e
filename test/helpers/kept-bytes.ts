import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

// Without a command line flag of the test run.
setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;

/** Bytes that somebody still has. What came while a collection was under way is left to the next one, so there are more until nothing goes. */
export function keptBytes(): number {
  for (let before = Infinity; ;) {
    gc();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    const now = heapUsed + arrayBuffers;
    if (now >= before) return before;
    before = now;
  }
}
