// A real Redis for the tests: REDIS_URL, else a server on PATH or in the usual folders, else Debian's packages, unpacked without root.
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { findExecutable, freePort, pathFolders, type RunningServer, serverFolder, ServerMissing, startServer } from "./server-process.ts";

const run = promisify(execFile);

const NAMES = ["redis-server", "valkey-server"];
const USUAL_FOLDERS = [
  "/usr/bin",
  "/usr/local/bin",
  "/opt/homebrew/bin",
  "/opt/homebrew/opt/redis/bin",
  "/opt/homebrew/opt/valkey/bin",
  "/home/linuxbrew/.linuxbrew/bin",
  "/snap/bin",
];
const CACHE = fileURLToPath(new URL("../../node_modules/.cache/", import.meta.url));
const UNPACKED = join(CACHE, `redis-${process.arch}`);
const HINT = "set REDIS_URL, or install a server (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis)";
const APT = ["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15"];
const APT_TIMEOUT_MS = 90_000;

export interface RedisProgram {
  readonly file: string;
  readonly env?: NodeJS.ProcessEnv;
}

/** The redis-server in an unpacked tree, with the libraries that came with it. */
function unpackedProgram(): RedisProgram | undefined {
  const file = findExecutable(["redis-server"], [join(UNPACKED, "usr/bin")]);
  if (file === undefined) return undefined;
  const libraries = ["lib", "usr/lib"]
    .map((folder) => join(UNPACKED, folder))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)));
  return { file, env: { ...process.env, LD_LIBRARY_PATH: libraries.join(delimiter) } };
}

/** Downloads what `apt-get install redis-server` would install here, and unpacks it into the cache. */
async function unpackDebianPackages(): Promise<void> {
  mkdirSync(CACHE, { recursive: true });
  const work = mkdtempSync(join(CACHE, "redis-download-"));
  const options = { cwd: work, timeout: APT_TIMEOUT_MS };
  const download = async (): Promise<void> => {
    // A simulated install names exactly the packages that this machine lacks, on any Debian or Ubuntu.
    const { stdout } = await run("apt-get", [...APT, "install", "--simulate", "--no-install-recommends", "redis-server"], options);
    const packages = [...stdout.matchAll(/^Inst (\S+)/gm)].map((match) => match[1] as string);
    await run("apt-get", [...APT, "download", ...packages], options);
  };
  try {
    try {
      await download();
    } catch (error) {
      // Fresh images come with empty package lists, old ones with lists of packages that are gone. Only root can renew them.
      if (process.getuid?.() !== 0) throw error;
      await run("apt-get", [...APT, "update"], options);
      await download();
    }
    const tree = join(work, "tree");
    for (const file of readdirSync(work).filter((name) => name.endsWith(".deb"))) await run("dpkg", ["-x", file, tree], options);
    // Renamed when it is whole, because a second run may be looking for it at this moment.
    if (!existsSync(UNPACKED)) renameSync(tree, UNPACKED);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The server that this machine has or can have. Throws ServerMissing. */
export async function redisProgram(): Promise<RedisProgram> {
  const file = findExecutable(NAMES, [...pathFolders(), ...USUAL_FOLDERS]);
  if (file !== undefined) return { file };
  const cached = unpackedProgram();
  if (cached) return cached;
  const tools = pathFolders();
  if (!findExecutable(["apt-get"], tools) || !findExecutable(["dpkg"], tools)) throw new ServerMissing(`no redis-server found: ${HINT}`);
  try {
    await unpackDebianPackages();
  } catch (error) {
    throw new ServerMissing(`no redis-server found, and Debian's packages cannot be had: ${HINT}`, { cause: error });
  }
  const unpacked = unpackedProgram();
  if (!unpacked) throw new ServerMissing(`Debian's packages hold no redis-server: ${HINT}`);
  return unpacked;
}

export async function startRedis(): Promise<RunningServer> {
  const given = process.env["REDIS_URL"];
  if (given) return { url: given, stop: () => Promise.resolve() };
  const program = await redisProgram();
  const port = await freePort();
  const folder = serverFolder("redis");
  return startServer({
    name: "Redis",
    file: program.file,
    args: ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
    url: `redis://127.0.0.1:${port}`,
    ready: /ready to accept connections/i,
    folder,
    stopSignal: "SIGTERM",
    ...(program.env ? { env: program.env } : {}),
  });
}
