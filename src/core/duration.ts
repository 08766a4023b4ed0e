/** Durations as people write them: `250ms`, `5s`, `1h30m`. */

const UNIT_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** `"1h30m"` to ms; null when it is not a duration. */
export function parseDuration(text: string): number | null {
  if (!/^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$/.test(text)) return null;
  let ms = 0;
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)) ms += Number(amount) * UNIT_MS[unit as keyof typeof UNIT_MS];
  return Math.round(ms);
}

/** Writes ms the way they are configured: `5m`, `90s`, `250ms`. */
export function formatDuration(ms: number): string {
  for (const unit of ["d", "h", "m", "s"] as const) {
    if (ms >= UNIT_MS[unit] && ms % UNIT_MS[unit] === 0) return `${ms / UNIT_MS[unit]}${unit}`;
  }
  return `${ms}ms`;
}

export const DURATION_EXPECTED = "expected a duration: ms as a number, or a number with its unit such as 250ms, 5s, 10m, 2h, 30d";

/** Ms as a number, or text with a unit; NaN = it is neither. */
export const durationOf = (value: number | string): number => (typeof value === "number" ? value : (parseDuration(value.trim()) ?? Number.NaN));

/** Why ms cannot be taken; null = they can. */
export function durationProblem(ms: number, minMs: number, maxMs: number, expected = DURATION_EXPECTED): string | null {
  if (!Number.isInteger(ms)) return expected;
  return ms < minMs || ms > maxMs ? `must be between ${formatDuration(minMs)} and ${formatDuration(maxMs)}` : null;
}
