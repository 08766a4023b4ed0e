import { expect, test } from "vitest";
import { progress } from "../../src/cli/progress.ts";

/** What stands on a terminal's line after some writes. */
function terminal(isTTY: boolean) {
  const writes: string[] = [];
  return {
    isTTY,
    write: (text: string) => void writes.push(text),
    writes,
    line() {
      const line: string[] = [];
      let at = 0;
      for (const letter of writes.join("")) {
        if (letter === "\r") at = 0;
        else line[at++] = letter;
      }
      return line.join("").trimEnd();
    },
  };
}

test("says how far it is, over itself, and leaves an empty line behind", () => {
  const target = terminal(true);
  const shown = progress("asking", 12, target);
  const lines = [target.line()];
  for (let i = 0; i < 12; i += 1) {
    shown.advance();
    lines.push(target.line());
  }
  expect([lines[0], lines[1], lines.at(-1)]).toEqual(["asking 0/12", "asking 1/12", "asking 12/12"]);
  shown.clear();
  expect([target.line(), target.writes.at(-1)?.endsWith("\r")]).toEqual(["", true]);
  expect(target.writes.join("")).not.toContain("\n");
});

test("writes nothing where nobody looks, and nothing about nothing", () => {
  for (const [isTTY, total] of [
    [false, 3],
    [true, 0],
  ] as const) {
    const target = terminal(isTTY);
    const shown = progress("asking", total, target);
    shown.advance();
    shown.clear();
    expect(target.writes).toEqual([]);
  }
});
