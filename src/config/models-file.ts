/** Writes `models.yaml`: what providers list, added to what a person may have written there. Only `quotaguard serve` does. */
import { isUtf8 } from "node:buffer";
import { randomUUID } from "node:crypto";
import { lstat, open, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { ConfigError } from "../core/errors.ts";
import { label } from "../options/values.ts";
import { MAX_BYTES } from "./file.ts";
import { addModels } from "./models-text.ts";
import { interpolate } from "./text.ts";

/** A person may be saving it at this very moment. */
const MAX_TRIES = 3;

const HEADER = `# Models that the providers list, added by \`quotaguard serve\` (server.replace_v1_models).
# Change what you like: entries are only ever added. rpm: requests per minute on each credential, -1 = unlimited.
`;

let writing: Promise<unknown> = Promise.resolve();

/**
 * Adds an entry for each model id that has none, and returns the ids added. The file is made when missing; what stands in it stays as it is.
 * An id that could not be read back (too long for a name, control characters, `${…}`) is left out, and so is what does not fit into 10,000
 * entries or 1 MiB. Written by rename, so a reader sees the old file or the new one. Throws ConfigError when the file is no list of models,
 * lies elsewhere, or cannot be written.
 */
export function appendModels(path: string, ids: readonly string[], defaultRpm: number): Promise<readonly string[]> {
  const run = writing.then(() => append(path, ids, defaultRpm));
  writing = run.catch(() => {});
  return run;
}

async function append(path: string, ids: readonly string[], defaultRpm: number): Promise<readonly string[]> {
  const writable = [...new Set(ids)].filter(isReadable);
  try {
    for (let attempt = 0; attempt < MAX_TRIES; attempt += 1) {
      const target = await targetOf(path);
      const before = await textOf(target);
      const { text, added } = addModels(path, before ?? HEADER, writable, defaultRpm);
      if (added.length === 0 || (await replace(target, before, text))) return added;
    }
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new ConfigError([`${path}: cannot be written (${code ?? (error as Error).message}); check its permissions and those of its folder`]);
  }
  throw new ConfigError([`${path}: was changed again and again while models were added to it`]);
}

/** What a provider lists is a stranger's word: a name that is a reference would put one of our variables in its place at the next start. */
const isReadable = (id: string): boolean => label().safeParse(id).success && id.isWellFormed() && !interpolate(id, {}).changed;

/** The file itself, if the path is a link to one in the same folder. */
async function targetOf(path: string): Promise<string> {
  const stats = await lstat(path).catch(ignoreMissing);
  if (!stats || stats.isFile()) return path;
  if (!stats.isSymbolicLink()) throw new ConfigError([`${path}: is not a file`]);
  const target = await realpath(path).catch(ignoreMissing);
  if (target === null || dirname(target) !== (await realpath(dirname(path)))) {
    throw new ConfigError([`${path}: is a link to somewhere else, which is not written to; put the file itself there`]);
  }
  return target;
}

async function textOf(path: string): Promise<string | null> {
  const stats = await stat(path).catch(ignoreMissing);
  if (stats && stats.size > MAX_BYTES) throw new ConfigError([`${path}: is larger than 1 MiB, so nothing is added to it`]);
  if (!stats) return null;
  const bytes = await readFile(path);
  // Anything else would be written back as something else.
  if (!isUtf8(bytes)) throw new ConfigError([`${path}: is not UTF-8 text, so nothing is added to it`]);
  return bytes.toString("utf8");
}

function ignoreMissing(error: unknown): null {
  if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
  throw error;
}

/** False = somebody else changed the file since it was read. */
async function replace(path: string, before: string | null, text: string): Promise<boolean> {
  const old = before === null ? null : await stat(path);
  const temporary = join(dirname(path), `.${basename(path)}.${randomUUID()}.tmp`);
  const handle = await open(temporary, "wx", old ? old.mode & 0o7777 : 0o644);
  try {
    try {
      if (old) {
        // What the process's umask took away.
        await handle.chmod(old.mode & 0o7777);
        // Only a privileged process may give a file away; for all others the owner is the same or cannot be kept.
        await handle.chown(old.uid, old.gid).catch(() => {});
      }
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    if ((await textOf(path)) !== before) return false;
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
  await syncFolder(dirname(path));
  return true;
}

/** Makes the rename itself outlast a power cut, where folders can be opened at all. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r").catch(() => null);
  if (!handle) return;
  await handle.sync().catch(() => {});
  await handle.close();
}
