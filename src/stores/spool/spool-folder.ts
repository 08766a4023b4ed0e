/** The folder of the spools: what lies there, whose it is, and how a file changes hands. */
import { createHash, randomBytes } from "node:crypto";
import { constants } from "node:fs";
import * as files from "node:fs/promises";
import { join, resolve } from "node:path";
import { machineId, ownerWatch } from "../sql/owner-watch.ts";

/** What a spool asks of the file system. */
export type SpoolDisk = Pick<typeof files, "access" | "lstat" | "mkdir" | "open" | "readdir" | "rename" | "stat" | "unlink" | "utimes">;

const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;
/** Who may write here could make the gateway write rows of his own. */
const WRITABLE_BY_OTHERS = 0o022;
/** Windows has neither such modes nor such links. */
const NO_FOLLOW = (constants.O_NOFOLLOW as number | undefined) ?? 0;
/** Whose files lie there for anybody: their process has put them down. */
const NOBODY = "free";

/** `<ledger>.<machine>.<process>.<owner>.<number>.spool`: all that must be known before a file is opened. */
const NAME = /^([0-9a-f]{12})\.([0-9a-f]{12}|free)\.(\d{1,10})\.([A-Za-z0-9_-]{8})\.(\d{1,9})\.spool$/;
const BROKEN = ".broken";

const digest = (text: string): string => createHash("sha256").update(text).digest("hex").slice(0, 12);

/** A file that waits to be written to its ledger. */
export interface FoundSpool {
  readonly path: string;
  readonly bytes: number;
}

export interface SpoolFolder {
  readonly path: string;
  /** The file of the next outage, made with its folder. Rejects when something else stands there, or others may write into the folder. */
  create(): Promise<OpenSpool>;
  /** Takes the files of dead processes. Two processes never take the same one. */
  claim(): Promise<readonly FoundSpool[]>;
  /** Shows that the owner of these files lives. `nowMs` is wall clock. */
  beat(paths: Iterable<string>, nowMs: number): Promise<void>;
  /** Puts a file down for whoever starts next. */
  release(path: string): Promise<void>;
  /** All of it is in the ledger. */
  remove(path: string): Promise<void>;
  /** Keeps what could not be read out of the way, for people. Returns its new path. */
  setAside(path: string): Promise<string>;
}

/** A file that lines are appended to. */
export interface OpenSpool {
  readonly path: string;
  /** Resolves once the text is on the disk and the file still ours: only then may anybody rely on it. */
  append(text: string): Promise<void>;
  close(): Promise<void>;
}

export interface SpoolFolderOptions {
  readonly path: string;
  /** Names the ledger whose rows these are. Others' files are left alone. */
  readonly ledger: string;
  readonly disk?: SpoolDisk;
}

export function spoolFolder({ ledger, disk = files, ...given }: SpoolFolderOptions): SpoolFolder {
  const folder = resolve(given.path);
  const owner = randomBytes(6).toString("base64url");
  const machine = machineId();
  // Where machines cannot be told apart, only the time of the last write tells who lives.
  const host = digest(machine ?? owner);
  const findDead = ownerWatch(owner, host);
  const ledgerId = digest(ledger);
  let made = 0;

  const nextPath = (whose: string, pid: number): string => join(folder, `${ledgerId}.${whose}.${pid}.${owner}.${(made += 1)}.spool`);

  async function checkFolder(): Promise<void> {
    await disk.mkdir(folder, { recursive: true, mode: FOLDER_MODE });
    const problem = await folderProblem(folder, disk);
    if (problem !== null) throw new Error(problem);
  }

  /** A new name must survive a power cut, too. Systems that cannot open folders keep names by themselves. */
  async function keepNames(): Promise<void> {
    const handle = await disk.open(folder, constants.O_RDONLY).catch(() => null);
    if (handle === null) return;
    try {
      await handle.sync().catch(() => {});
    } finally {
      await handle.close();
    }
  }

  return {
    path: folder,

    async create() {
      await checkFolder();
      const path = nextPath(host, process.pid);
      const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_EXCL | NO_FOLLOW;
      const handle = await disk.open(path, flags, FILE_MODE);
      await keepNames();
      const { ino } = await handle.stat();
      return {
        path,
        async append(text) {
          await handle.appendFile(text);
          await handle.datasync();
          // A process that took this one for dead has moved the file and may have read it to its end before this text was there.
          if ((await disk.stat(path)).ino !== ino) throw new Error(`another process has taken the file ${path}`);
        },
        close: () => handle.close(),
      };
    },

    async claim() {
      const found = (await spoolsIn(folder, disk)).filter((spool) => spool.ledgerId === ledgerId && !spool.id.startsWith(`${owner}.`));
      const dead = new Set(findDead(found.filter(({ host: whose }) => whose !== NOBODY)).map(({ name }) => name));
      const claimed: FoundSpool[] = [];
      for (const { name, bytes } of found.filter((spool) => spool.host === NOBODY || dead.has(spool.name))) {
        const path = nextPath(host, process.pid);
        try {
          await disk.rename(join(folder, name), path);
          claimed.push({ path, bytes });
        } catch (error) {
          // Another process was faster.
          if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
        }
      }
      return claimed;
    },

    async beat(paths, nowMs) {
      for (const path of paths) await disk.utimes(path, nowMs / 1_000, nowMs / 1_000);
    },
    release: (path) => disk.rename(path, nextPath(NOBODY, 0)),
    remove: (path) => disk.unlink(path),
    async setAside(path) {
      const aside = `${path}${BROKEN}`;
      await disk.rename(path, aside);
      return aside;
    },
  };
}

/** Why a folder that is there takes no spool; null = it does. */
export async function folderProblem(folder: string, disk: Pick<SpoolDisk, "access" | "lstat"> = files): Promise<string | null> {
  const stats = await disk.lstat(folder);
  if (!stats.isDirectory()) return `${folder} is not a folder (links are not followed)`;
  if (process.platform !== "win32" && (stats.mode & WRITABLE_BY_OTHERS) !== 0) return `others may write into the folder ${folder}: chmod go-w it`;
  return disk.access(folder, constants.W_OK | constants.X_OK).then(
    () => null,
    () => `this user may not write into the folder ${folder}`,
  );
}

/** One file by its name. */
export interface SpoolFile {
  readonly name: string;
  readonly ledgerId: string;
  /** Of the owner: whose machine, which process, which of its spools. */
  readonly host: string;
  readonly pid: number;
  readonly id: string;
  /** When it was written to, wall clock in ms. */
  readonly beat: number;
  readonly bytes: number;
}

/** Spools that nobody has written to their ledger yet. Links are none. */
export async function spoolsIn(folder: string, disk: Pick<SpoolDisk, "readdir" | "lstat"> = files): Promise<readonly SpoolFile[]> {
  const found: SpoolFile[] = [];
  for (const name of await namesIn(folder, disk)) {
    const [, ledgerId, host, pid, id, number] = NAME.exec(name) ?? [];
    if (ledgerId === undefined) continue;
    const stats = await disk.lstat(join(folder, name)).catch(() => null);
    if (!stats?.isFile()) continue;
    found.push({ name, ledgerId, host: String(host), pid: Number(pid), id: `${id}.${number}`, beat: Math.round(stats.mtimeMs), bytes: stats.size });
  }
  return found;
}

/** Whether a file holds rows of this ledger. */
export const isSpoolOf = (ledger: string, { ledgerId }: SpoolFile): boolean => ledgerId === digest(ledger);

/** Files with lines that could not be read. */
export const brokenIn = async (folder: string): Promise<readonly string[]> =>
  (await namesIn(folder, files)).filter((name) => name.endsWith(BROKEN)).map((name) => join(folder, name));

async function namesIn(folder: string, disk: Pick<SpoolDisk, "readdir">): Promise<readonly string[]> {
  try {
    return await disk.readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** A file to be read from its beginning. */
export async function openToRead(path: string, disk: SpoolDisk = files) {
  const handle = await disk.open(path, constants.O_RDONLY | NO_FOLLOW);
  return {
    read: async (into: Buffer, position: number): Promise<number> => (await handle.read(into, 0, into.length, position)).bytesRead,
    close: (): Promise<void> => handle.close(),
  };
}
