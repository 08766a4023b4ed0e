import { CommandError, EXIT_USAGE, namesIn, painter, print, table, type CommonFlags } from "./output.ts";
import { operate } from "./operator.ts";

export interface CreateFlags extends CommonFlags {
  readonly org?: string;
  readonly scope?: readonly string[];
  readonly models?: string;
  readonly expires?: string;
  readonly mayAssertScopes?: boolean;
}

interface KeyRow {
  readonly name: string;
  readonly prefix: string;
  readonly org: string | null;
  readonly scopes: Readonly<Record<string, string>>;
  readonly models: readonly string[] | null;
  readonly createdAt: string;
  readonly expiresAt: string | null;
  readonly lastUsedAt: string | null;
  readonly previousUntil: string | null;
}

/** `quotaguard keys create`: prints the key, this once. Without a name it is called as its organisation. Returns the exit code. */
export async function createKey(name: string | undefined, flags: CreateFlags): Promise<number> {
  const called = name ?? flags.org;
  if (called === undefined)
    throw new CommandError("keys create: give the key a name, or an organisation: quotaguard keys create alice --org acme", EXIT_USAGE);
  const body = {
    name: called,
    scopes: scopesOf(flags.scope ?? []),
    ...(flags.org === undefined ? {} : { org: flags.org }),
    ...(flags.models === undefined ? {} : { models: namesIn("--models", flags.models) }),
    ...(flags.expires === undefined ? {} : { expires: flags.expires }),
    ...(flags.mayAssertScopes ? { mayAssertScopes: true } : {}),
  };
  return operate(flags, "ledger", async ({ ask }) => shown(flags, await ask("POST", "/keys", body)));
}

/** `quotaguard keys rotate`: prints the new key, this once. */
export function rotateKey(name: string, flags: CommonFlags & { readonly overlap?: string }): Promise<number> {
  const body = flags.overlap === undefined ? {} : { overlap: flags.overlap };
  return operate(flags, "ledger", async ({ ask }) => shown(flags, await ask("POST", `/keys/${encodeURIComponent(name)}/rotate`, body)));
}

export function revokeKey(name: string, flags: CommonFlags): Promise<number> {
  return operate(flags, "ledger", async ({ ask }) => {
    const answer = await ask("DELETE", `/keys/${encodeURIComponent(name)}`);
    print(flags.json ? JSON.stringify(answer) : `${name} is revoked: it is refused everywhere within 2 s`);
    return 0;
  });
}

export function listKeys(flags: CommonFlags): Promise<number> {
  return operate(flags, "ledger", async ({ ask }) => {
    const answer = await ask("GET", "/keys");
    const keys = answer.keys as readonly KeyRow[];
    if (flags.json) print(JSON.stringify(answer));
    else if (keys.length === 0) print("no key was made; quotaguard keys create makes one");
    else printTable(flags, keys);
    return 0;
  });
}

function printTable(flags: CommonFlags, keys: readonly KeyRow[]): void {
  const paint = painter(flags);
  const head = ["name", "key", "scopes", "models", "created", "expires", "last used"];
  const day = (text: string | null, none: string): string => text?.slice(0, 10) ?? none;
  const rows = keys.map((key) => [
    key.name,
    `${key.prefix}…${key.previousUntil === null ? "" : ` (the one before until ${key.previousUntil.slice(0, 16)}Z)`}`,
    Object.entries(key.scopes)
      .map(([scope, value]) => `${scope}=${value}`)
      .join(" "),
    key.models?.join(", ") ?? "all",
    day(key.createdAt, ""),
    day(key.expiresAt, "never"),
    day(key.lastUsedAt, "never"),
  ]);
  print(table([head, ...rows], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
}

function shown(flags: CommonFlags, made: Record<string, unknown>): number {
  const { key, name } = made as { readonly key: string; readonly name: string };
  const paint = painter(flags);
  print(flags.json ? JSON.stringify(made) : `${paint("bold", key)}\n${paint("dim", `the key of ${name}; it is not shown again`)}`);
  return 0;
}

function scopesOf(pairs: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const [, scope, value] = /^([^=]+)=(.+)$/.exec(pair) ?? [];
      if (scope === undefined || value === undefined)
        throw new CommandError(`--scope ${pair}: expected scope=value, such as --scope user=alice`, EXIT_USAGE);
      return [scope, value];
    }),
  );
}
