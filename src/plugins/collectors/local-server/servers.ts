/** Antigravity's own servers among the processes of this user: where they listen, and the token that their app speaks to them with. */
import { execFile } from "node:child_process";
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { isFields } from "../fields.ts";

/** A window of the app has one each; nobody has more open. */
const MOST_SERVERS = 8;
const MOST_PORTS = 16;
const RUN_MS = 2_000;

export interface LocalServer {
  readonly ports: readonly number[];
  readonly csrf: string;
}

/** What a machine can be asked; never rejects. */
export interface Machine {
  servers(): Promise<readonly LocalServer[]>;
}

/** An executable of theirs, with arguments that speak of this app: others use the same program. */
const isServer = (executable: string, args: readonly string[]): boolean =>
  basename(executable).startsWith("language_server") && [executable, ...args].some((each) => /antigravity/i.test(each));

/** The token among the arguments; null = there is none, or more than one and nobody knows which counts. */
export function csrfOf(args: readonly string[]): string | null {
  const found = new Set<string>();
  for (const [index, arg] of args.entries()) {
    const value = arg === "--csrf_token" ? args[index + 1] : /^--csrf_token=(.*)$/.exec(arg)?.[1];
    if (value !== undefined) found.add(value);
  }
  const [csrf] = found;
  return csrf !== undefined && found.size === 1 && /^[\x21-\x7e]{1,512}$/.test(csrf) ? csrf : null;
}

/** Linux: everything stands in files. Others' processes cannot be read, and are not asked for. */
export function procMachine(root = "/proc", uid = process.getuid?.()): Machine {
  /** Another network's 127.0.0.1 is not ours: on the same port of ours somebody else may listen. */
  const networkOf = (pid: string): Promise<string> => readlink(join(root, pid, "ns", "net")).catch(() => "");

  async function serverOf(pid: string): Promise<LocalServer | null> {
    const folder = join(root, pid);
    const owner = await stat(folder);
    if (owner.uid !== uid) return null;
    const args = (await readFile(join(folder, "cmdline"), "utf8")).split("\0").filter((arg) => arg !== "");
    const [program = ""] = args;
    if (!/language_server/.test(program) || !isServer(await readlink(join(folder, "exe")).catch(() => program), args)) return null;
    const csrf = csrfOf(args);
    if (csrf === null || (await networkOf(pid)) !== (await networkOf("self"))) return null;
    return { csrf, ports: await portsOf(folder) };
  }

  async function portsOf(folder: string): Promise<readonly number[]> {
    const sockets = new Set<string>();
    for (const fd of await readdir(join(folder, "fd"))) {
      const inode = /^socket:\[(\d+)\]$/.exec(await readlink(join(folder, "fd", fd)).catch(() => ""))?.[1];
      if (inode !== undefined) sockets.add(inode);
    }
    const tables = await Promise.all(["tcp", "tcp6"].map((table) => readFile(join(folder, "net", table), "utf8").catch(() => "")));
    return tables.flatMap((table) => listeningIn(table, sockets)).slice(0, MOST_PORTS);
  }

  return {
    async servers() {
      const found: LocalServer[] = [];
      for (const pid of await readdir(root).catch(() => [])) {
        if (!/^\d+$/.test(pid) || found.length >= MOST_SERVERS) continue;
        // It may end while it is looked at.
        const server = await serverOf(pid).catch(() => null);
        if (server) found.push(server);
      }
      return found;
    },
  };
}

/** 127.0.0.1 as the kernel writes it, plain and within IPv6. */
const LOOPBACK = new Set(["0100007F", "0000000000000000FFFF00000100007F"]);

/** Ports of loopback on which one of these sockets listens (state 0A). */
export function listeningIn(table: string, inodes: ReadonlySet<string>): readonly number[] {
  return table.split("\n").flatMap((line) => {
    const [, local = "", , state, , , , , , inode = ""] = line.trim().split(/\s+/);
    const [address = "", port = ""] = local.split(":");
    return state === "0A" && LOOPBACK.has(address) && inodes.has(inode) ? [Number.parseInt(port, 16)] : [];
  });
}

/** Text that a program prints; rejects when it fails or takes longer than 2 s. */
export type Run = (program: string, args: readonly string[]) => Promise<string>;

const execute = promisify(execFile);

const runProgram: Run = async (program, args) => (await execute(program, [...args], { timeout: RUN_MS, maxBuffer: 4 * 1024 * 1024 })).stdout;

/** macOS: there `ps` and `lsof` tell it. */
export function psMachine(run: Run = runProgram, uid = process.getuid?.()): Machine {
  async function serverOf(line: string): Promise<LocalServer | null> {
    const [, owner, pid = "", command = ""] = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? [];
    if (owner === undefined || Number(owner) !== uid) return null;
    // The path of an app may hold spaces, and no argument before the first option does.
    const [executable = ""] = command.split(" --", 1);
    const args = command.slice(executable.length).trim().split(/\s+/);
    const csrf = isServer(executable, args) ? csrfOf(args) : null;
    if (csrf === null) return null;
    const listed = await run("lsof", ["-nP", "-a", "-p", pid, "-iTCP", "-sTCP:LISTEN", "-Fn"]);
    return { csrf, ports: [...listed.matchAll(/^n127\.0\.0\.1:(\d+)$/gm)].map(([, port]) => Number(port)).slice(0, MOST_PORTS) };
  }

  return {
    async servers() {
      const lines = (await run("ps", ["-axo", "uid=,pid=,command="]).catch(() => "")).split("\n").filter((line) => line.includes("language_server"));
      const found = await Promise.all(lines.slice(0, 4 * MOST_SERVERS).map((line) => serverOf(line).catch(() => null)));
      return found.filter(isFields).slice(0, MOST_SERVERS) as readonly LocalServer[];
    },
  };
}

const NOTHING: Machine = { servers: () => Promise.resolve([]) };

export const thisMachine = (): Machine => (process.platform === "linux" ? procMachine() : process.platform === "darwin" ? psMachine() : NOTHING);
