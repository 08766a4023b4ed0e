import { describe, expect, test } from "vitest";
import { MOST_LINE_BYTES, intentLine, readSpool, rowLine } from "../../../src/stores/spool/spool-lines.ts";
import { intentOf, rowOf } from "../../contracts/ledger-rows.ts";

/** Reads a text as a file would be read, in pieces of any size. */
async function read(bytes: Buffer, pieceBytes = 1_000): Promise<{ readonly ids: string[]; readonly broken: number }> {
  const ids: string[] = [];
  let broken = 0;
  const source = async (into: Buffer, position: number): Promise<number> =>
    bytes.copy(into, 0, position, position + Math.min(pieceBytes, into.length));
  for await (const lines of readSpool(source)) {
    ids.push(...lines.entries.map(({ kind, row }) => `${kind} ${row.id}`));
    broken += lines.broken;
  }
  return { ids, broken };
}

const TEXT = [intentLine(intentOf("a")), rowLine(rowOf("a")), intentLine(intentOf("ü\n\u2028"))];
const ALL = ["intent a", "row a", "intent ü\n\u2028"];

test("what was written is read, whatever the pieces are in which it comes", async () => {
  for (const piece of [1, 2, 7, 100, 10_000]) expect(await read(Buffer.from(TEXT.join("")), piece)).toEqual({ ids: ALL, broken: 0 });
});

test("an intent and a row come back as they were", async () => {
  const [intent, row] = [intentOf("a", { tag: "x", held: { usd: 5 } }), rowOf("b", { usage: null })];
  const found: unknown[] = [];
  const bytes = Buffer.from(intentLine(intent) + rowLine(row));
  for await (const { entries } of readSpool(async (into, position) => bytes.copy(into, 0, position)))
    found.push(...entries.map((entry) => entry.row));
  expect(found).toEqual([expect.objectContaining({ ...intent, state: "intent" }), row]);
});

test("a last line that is torn at whatever byte does not count, and breaks nothing", async () => {
  const whole = Buffer.from(TEXT.slice(0, 2).join(""));
  const last = Buffer.from(TEXT[2] as string);
  for (let length = 0; length < last.length; length += 1) {
    expect([length, await read(Buffer.concat([whole, last.subarray(0, length)]))]).toEqual([length, { ids: ALL.slice(0, 2), broken: 0 }]);
  }
});

describe("a line that is not as it was written is counted, and all others are read", () => {
  test("whichever of its bytes is another one", async () => {
    const middle = Buffer.from(TEXT[1] as string);
    for (let at = 0; at < middle.length - 1; at += 1) {
      const changed = Buffer.from(middle);
      changed[at] = (changed[at] as number) ^ 1;
      const found = await read(Buffer.concat([Buffer.from(TEXT[0] as string), changed, Buffer.from(TEXT[2] as string)]));
      expect([at, found.ids, found.broken > 0]).toEqual([at, [ALL[0], ALL[2]], true]);
    }
  });

  test("when it is no line of ours at all, or too long for one", async () => {
    const rest = [Buffer.from("\n{}\n0 \n"), Buffer.alloc(MOST_LINE_BYTES + 1_000_000, "x"), Buffer.from("\n")];
    expect(await read(Buffer.concat([Buffer.from(TEXT[0] as string), ...rest, Buffer.from(TEXT[1] as string)]), 262_144)).toEqual({
      ids: ALL.slice(0, 2),
      broken: 4,
    });
  });
});
