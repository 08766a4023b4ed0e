import type { AuditReport, AuditViolation } from "../core/audit.ts";
import { EXIT_FAILED, painter, print, table, type CommonFlags } from "./output.ts";
import { operate, type Operator } from "./operator.ts";
import { progress } from "./progress.ts";

export interface AuditFlags extends CommonFlags {
  readonly from?: string;
  readonly to?: string;
}

/** Beyond these, violations are only counted. */
const MOST_KEPT = 1_000;

/** Of all answers together; times as text. */
type Audited = Pick<AuditReport, "rows" | "violations" | "more" | "seals" | "unchecked">;
type Answer = Audited & { readonly next: string | null; readonly checkedAt: string };

/** `quotaguard audit`: goes through the ledger, and names each row that is wrong. Returns the exit code: 1 = there is one. */
export async function audit(flags: AuditFlags): Promise<number> {
  return operate(flags, "ledger", async (operator) => {
    const { checkedAt, ...found } = await audited(flags, operator);
    const isClean = found.violations.length === 0;
    if (flags.json) print(JSON.stringify({ ok: isClean, from: flags.from ?? null, to: flags.to ?? null, ...found, checkedAt }));
    else printFound(flags, found);
    return isClean ? 0 : EXIT_FAILED;
  });
}

/** An answer is a few seconds long; the next question goes on where it ended. */
async function audited({ from, to }: AuditFlags, { ask }: Operator): Promise<Audited & { readonly checkedAt: string }> {
  const shown = progress("auditing rows", null);
  const seals = { intact: 0, altered: 0, unsealed: 0, foreign: 0 };
  const violations: AuditViolation[] = [];
  const unchecked = new Map<string, number>();
  let [rows, more] = [0, 0];
  try {
    for (let next = from; ;) {
      const query = new URLSearchParams({ ...(next === undefined ? {} : { from: next }), ...(to === undefined ? {} : { to }) });
      const answer = (await ask("GET", `/audit?${query.toString()}`)) as unknown as Answer;
      rows += answer.rows;
      shown.advance(answer.rows);
      const kept = answer.violations.slice(0, MOST_KEPT - violations.length);
      violations.push(...kept);
      more += answer.more + answer.violations.length - kept.length;
      for (const state of ["intact", "altered", "unsealed", "foreign"] as const) seals[state] += answer.seals[state];
      for (const { rows: count, why } of answer.unchecked) unchecked.set(why, (unchecked.get(why) ?? 0) + count);
      if (answer.next === null)
        return {
          rows,
          violations,
          more,
          seals,
          unchecked: [...unchecked].map(([why, count]) => ({ rows: count, why })),
          checkedAt: answer.checkedAt,
        };
      next = answer.next;
    }
  } finally {
    shown.clear();
  }
}

function printFound(flags: CommonFlags, { rows, violations, more, seals, unchecked }: Audited): void {
  const paint = painter(flags);
  if (violations.length > 0) {
    const lines = violations.map(({ invariant, message }) => [invariant, message]);
    print(table([["check", "what is wrong"], ...lines], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
  }
  for (const { rows: count, why } of unchecked) print(paint("yellow", `not checked: ${count} rows ${why}`));
  const total = violations.length + more;
  const verdict = total === 0 ? paint("green", "nothing is wrong") : paint("red", total === 1 ? "1 violation" : `${total} violations`);
  print(`${rows} rows, ${seals.intact} as their seals say: ${verdict}`);
}
