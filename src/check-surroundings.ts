import cluster from "node:cluster";
import { diagnose } from "./core/diagnostics.ts";
import type { Logger } from "./core/logger.ts";
import { VERSION } from "./core/version.ts";
import type { ResolvedOptions } from "./options/resolved.ts";

const VERSIONS = Symbol.for("quotaguard.versions");

type WithVersions = { [VERSIONS]?: Set<string> };

/** What a guard can see of its process when it is made: workers that do not share its counters, and copies of this package that do not fit. */
export function checkSurroundings({ store }: Pick<ResolvedOptions, "store">, logger: Logger): void {
  const kind = store.kind === "given" ? store.store.name : store.kind;
  // Also pm2's cluster mode. Processes that are only started several times cannot be told from others without reading the environment.
  if (kind === "memory" && cluster.isWorker) diagnose(logger, "QG_MEMORY_STORE_WORKERS", { worker: cluster.worker?.id });
  const versions = ((globalThis as WithVersions)[VERSIONS] ??= new Set());
  const other = [...versions].find((version) => !fits(version, VERSION));
  if (other !== undefined) diagnose(logger, "QG_TWO_COPIES", { versions: `${other}, ${VERSION}` });
  versions.add(VERSION);
}

/** Versions that npm would take for each other: before 1.0 the second number is the one that breaks. */
function fits(a: string, b: string): boolean {
  const [major, minor] = a.split(".");
  const [otherMajor, otherMinor] = b.split(".");
  return major === otherMajor && (major !== "0" || minor === otherMinor);
}
