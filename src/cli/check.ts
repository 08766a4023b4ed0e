import { chainCautions } from "../chain-cautions.ts";
import { describeOptions } from "../config/report.ts";
import { systemClock } from "../core/time.ts";
import { guardPrices } from "../guard-prices.ts";
import { offeredBy } from "../offered.ts";
import { resolveOptions } from "../options.ts";
import type { ResolvedCredential, ResolvedOptions } from "../options/resolved.ts";
import { credentialSet } from "../pool/credential-set.ts";
import { accessTokens } from "../upstream/access-tokens.ts";
import { askProvider } from "../upstream/ask.ts";
import { rowOf } from "../upstream/providers.ts";
import { undiciTransport, type Transport } from "../upstream/transport.ts";
import { cautions } from "./cautions.ts";
import { checkStores, spoolFindings, spoolWarnings, storedKeysOf, type Finding } from "./check-stores.ts";
import { EXIT_FAILED, painter, print, table, type CommonFlags } from "./output.ts";
import { serverConfig } from "./server-config.ts";

const PROBE_TIMEOUT_MS = 10_000;
const MAX_LIST_BYTES = 4 * 1024 * 1024;

const STYLES = { ok: "green", warn: "yellow", FAIL: "red" } as const;

/** `quotaguard check`: what is configured, where it comes from, and whether it works. Returns the exit code. */
export async function check(flags: CommonFlags): Promise<number> {
  const config = serverConfig({ path: flags.config });
  const options = resolveOptions(config);
  const rows = describeOptions(options, config.sources);
  const stores = await checkStores(options);
  const findings = [
    ...(await authFindings(options)),
    ...configFindings(options),
    ...(await priceFindings(options)),
    ...stores.findings,
    ...(await spoolFindings(options)),
    ...(await credentialFindings(options)),
  ];
  const warnings = [
    ...config.warnings,
    ...cautions(options),
    ...chainCautions(options, offeredBy(options)),
    ...stores.warnings,
    ...(await spoolWarnings(options)),
  ];
  const failed = findings.filter(({ ok }) => !ok);
  if (flags.json) {
    print(JSON.stringify({ ok: failed.length === 0, config: config.file, warnings, options: rows, checks: findings }));
    return failed.length === 0 ? 0 : EXIT_FAILED;
  }
  const paint = painter(flags);
  print(paint("bold", config.file ?? "no config file: environment and defaults only"));
  const isHead = (row: number): boolean => row === 0;
  print(
    table([["option", "value", "source"], ...rows.map(({ path, value, source }) => [path, value, source])], {
      paint: (text, row, column) => (isHead(row) || column === 2 ? paint("dim", text) : text),
    }),
  );
  print("");
  const verdicts = findings.map(({ ok }) => (ok ? "ok" : "FAIL"));
  const lines = [
    ...warnings.map((warning) => ["warn", "configuration", warning]),
    ...findings.map(({ what, detail }, i) => [verdicts[i] as string, what, detail]),
  ];
  print(table(lines, { paint: (text, _row, column) => (column === 0 ? paint(STYLES[text as keyof typeof STYLES], text) : text) }));
  print("");
  print(failed.length === 0 ? "everything works" : `${failed.length} of ${findings.length} checks failed`);
  return failed.length === 0 ? 0 : EXIT_FAILED;
}

async function authFindings(options: ResolvedOptions): Promise<readonly Finding[]> {
  const what = "client auth";
  const { auth } = options;
  if (auth?.kind !== "keys") return [{ what, ok: auth !== null, detail: auth?.kind ?? NOBODY }];
  const { count, problem } = await storedKeysOf(options);
  const marked = problem === null ? [] : [{ what: "secrets.key", ok: false, detail: problem }];
  const configured = keysText(auth.keys.length, auth.masterKey !== null);
  if (configured !== "") return [{ what, ok: true, detail: configured }, ...marked];
  if (count === null) return [{ what, ok: false, detail: "none is configured, and keys made at run time cannot be read: see store and ledger" }];
  return [{ what, ok: count > 0, detail: count > 0 ? `${keysText(count, false)} made at run time` : NOBODY }, ...marked];
}

const NOBODY = "nobody may call: set server.master_key or keys, or make a key (quotaguard keys create --org dev)";

function configFindings(options: ResolvedOptions): Finding[] {
  const findings: Finding[] = [];
  if (options.credentials.length === 0) findings.push({ what: "credentials", ok: false, detail: "none: nothing can be served" });
  const { rules, files, book } = options.prices;
  const isPriced = book || files.length > 0 || [...options.models, ...rules].some(({ price }) => price);
  const money = options.limits.find(({ unit }) => unit === "usd");
  if (money && !isPriced)
    findings.push({
      what: `limit ${money.name}`,
      ok: false,
      detail: "counts USD, and no model has a price: every call would be refused with model_not_priced",
    });
  return findings;
}

async function priceFindings(options: ResolvedOptions): Promise<readonly Finding[]> {
  const prices = guardPrices(options, { clock: systemClock, credentials: credentialSet(options.credentials) });
  await prices.load();
  await prices.close();
  return prices
    .files()
    .map(({ file, models, problem }) => ({ what: `price file ${file}`, ok: problem === null, detail: problem ?? `${models} models` }));
}

function keysText(keys: number, hasMaster: boolean): string {
  const texts = [...(keys === 0 ? [] : [`${keys} ${keys === 1 ? "key" : "keys"}`]), ...(hasMaster ? ["a master key"] : [])];
  return texts.join(" and ");
}

async function credentialFindings(options: ResolvedOptions): Promise<readonly Finding[]> {
  const transport = undiciTransport({ connectTimeoutMs: options.resilience.connectTimeoutMs });
  try {
    return await Promise.all(options.credentials.map((credential) => probe(credential, transport)));
  } finally {
    await transport.close();
  }
}

/** Lists the account's models, or asks for its token where there is no list: costs nothing and needs the key. */
async function probe(credential: ResolvedCredential, transport: Transport): Promise<Finding> {
  const what = `credential ${credential.name}`;
  const { paths, tokens } = rowOf(credential);
  try {
    if (paths.models === undefined) {
      const sendable = tokens ? await accessTokens(transport, systemClock).of(credential, tokens) : null;
      const isIssued = sendable !== null && sendable.credential !== credential;
      const detail = isIssued ? "its account gets an access token" : `not asked: ${credential.provider} has no list of an account's models`;
      return { what, ok: true, detail };
    }
    const question = { credential, to: "models", body: null, timeoutMs: PROBE_TIMEOUT_MS, maxBytes: MAX_LIST_BYTES } as const;
    const { status } = await askProvider(transport, systemClock, question);
    if (status < 400) return { what, ok: true, detail: `answers (${credential.origin})` };
    const why = status === 401 || status === 403 ? ": the key is not accepted" : "";
    return { what, ok: false, detail: `the provider answers with status ${status}${why}` };
  } catch (error) {
    return { what, ok: false, detail: (error as Error).message };
  }
}
