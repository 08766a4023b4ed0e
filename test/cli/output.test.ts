import { expect, test } from "vitest";
import { printable } from "../../src/cli/output.ts";

test("a name of somebody else's neither moves the cursor nor turns the text around", () => {
  expect(printable("a\u001b[2Jb\u202ec\u2066d\u2028e\u200ff\r")).toBe("a�[2Jb�c�d�e�f�");
  expect(printable("Zoë 😀 gpt-4o")).toBe("Zoë 😀 gpt-4o");
});
