/** What an experiment counted. It is printed, because a figure that nobody sees is not watched. */
export function figures(experiment: string, values: Readonly<Record<string, unknown>>): void {
  const shown = Object.entries(values).map(
    ([name, value]) => `${name} ${typeof value === "number" ? round(value) : typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  console.log(`[chaos] ${experiment}: ${shown.join(" · ")}`);
}

const round = (value: number): string => (Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(Math.abs(value) < 10 ? 2 : 1));

/** The value that so large a part of the values does not exceed; 0 of none. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * part) - 1)] ?? 0;
}

export const sum = (values: Iterable<number>): number => {
  let total = 0;
  for (const value of values) total += value;
  return total;
};
