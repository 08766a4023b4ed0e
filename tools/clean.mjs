// Removes build output so that a deleted source file cannot leave a stale module in the package.
import { rmSync } from "node:fs";

for (const folder of process.argv.slice(2)) rmSync(new URL(`../${folder}`, import.meta.url), { recursive: true, force: true });
