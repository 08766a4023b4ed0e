/** `quotaguard quotas`: what is left of the accounts. */
import type { ShownLevel } from "../core/strategy.ts";
import { barOf, barRoom, painter, paragraph, print, printable, tableRows, type CommonFlags } from "./output.ts";
import { operate, type Operator } from "./operator.ts";
import { aheadText, lengthText } from "./when.ts";

interface GroupRow {
  readonly group: string;
  /** 0 to 1. */
  readonly remaining: number;
  readonly resetsAt: string | null;
  readonly observedAt: string;
  readonly source: string;
  readonly confidence: number;
  readonly level: ShownLevel;
}

interface AccountRow {
  readonly credential: string;
  readonly provider: string;
  readonly state: string;
  readonly quotas: readonly GroupRow[];
}

const BAR = 20;
const COLOURS = { ok: "green", warning: "yellow", high: "yellow", critical: "red" } as const;

/** Returns the exit code. */
export function quotas(flags: CommonFlags, nowMs: number): Promise<number> {
  return operate(flags, "store", async ({ ask, place }) => {
    const answer = await ask("GET", "/quotas");
    const accounts = answer.quotas as readonly AccountRow[];
    if (flags.json) print(JSON.stringify({ from: place, ...answer }));
    else if (accounts.length === 0) print("there is no credential; name one under credentials in the configuration");
    else printAccounts(flags, accounts, place, nowMs);
    return 0;
  });
}

const SAID = {
  gateway: "as the running gateway knows it",
  database: "no gateway answers, so this is what the database knows",
} as const satisfies Record<Operator["place"], string>;

function printAccounts(flags: CommonFlags, accounts: readonly AccountRow[], place: Operator["place"], nowMs: number): void {
  const paint = painter(flags);
  const known = accounts.filter(({ quotas: groups }) => groups.length > 0);
  const unknown = accounts.filter(({ quotas: groups }) => groups.length === 0).map(({ credential }) => printable(credential));
  print(paint("dim", SAID[place]));
  if (known.length > 0) {
    const rows = known.flatMap(({ quotas: groups }) => groups);
    const cells = rows.map((row) => cellsOf(row, nowMs));
    const room = barRoom(cells, BAR);
    // One table for all accounts, so that the bars stand below each other.
    const shown = tableRows(
      cells.map((line, i) => (room === 0 ? line : [...line.slice(0, 2), barCell((rows[i] as GroupRow).remaining, room), ...line.slice(2)])),
      { paint: (text, row, column) => (column === 0 || (room > 0 && column === 2) ? paint(COLOURS[(rows[row] as GroupRow).level], text) : text) },
    );
    let at = 0;
    for (const { credential, provider, state, quotas: groups } of known) {
      print(`\n${paint("bold", printable(credential))}  ${provider}${state === "ready" ? "" : `  ${state}`}`);
      print(shown.slice(at, at + groups.length).join("\n"));
      at += groups.length;
    }
    print("");
  }
  if (unknown.length === 0) return;
  print(paragraph(`nothing is known yet of ${unknown.join(", ")}`));
  const how = "quotas are read from answers' headers, and the collectors plugin asks for those of subscriptions: send a request, then look again";
  print(paint("dim", paragraph(how)));
}

const barCell = (ratio: number, room: number): string => barOf(ratio, room).padEnd(room, "░");

function cellsOf({ group, remaining, resetsAt, observedAt, source, confidence, level }: GroupRow, nowMs: number): string[] {
  const left = `${Math.floor(remaining * 100)} %`.padStart(5);
  const resets = resetsAt === null ? "no reset known" : aheadText(Date.parse(resetsAt), nowMs);
  return [
    `  ${printable(group)}`,
    left,
    level === "ok" ? "" : level,
    resets,
    `${lengthText(nowMs - Date.parse(observedAt))} ago, ${source} ${Math.round(confidence * 100)} %`,
  ];
}
