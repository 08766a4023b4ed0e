import { appendFileSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { appendModels } from "../../src/config/models-file.ts";
import { folderWith } from "./folder.ts";

/** Runs at the moment between the reading of the file and its replacement, which is too short to be met from outside. */
let meanwhile: () => void = () => {};

vi.mock("node:fs/promises", async (original) => {
  const real = await original<typeof import("node:fs/promises")>();
  return {
    ...real,
    open: async (...args: Parameters<typeof real.open>) => {
      if (String(args[0]).endsWith(".tmp")) meanwhile();
      return real.open(...args);
    },
  };
});

test("a person who saves the file at the same moment loses nothing", async () => {
  const folder = folderWith({ "models.yaml": "models:\n  - name: a\n" });
  const path = join(folder, "models.yaml");
  meanwhile = () => {
    meanwhile = () => {};
    appendFileSync(path, "  - name: theirs # theirs\n");
  };
  expect(await appendModels(path, ["a", "theirs", "b"], 5)).toEqual(["b"]);
  expect(readFileSync(path, "utf8")).toBe("models:\n  - name: a\n  - name: theirs # theirs\n  - name: b\n    rpm: 5\n");
  expect(readdirSync(folder)).toEqual(["models.yaml"]);
});

test("a file that never stands still is given up, without a trace", async () => {
  const folder = folderWith({ "models.yaml": "models:\n" });
  const path = join(folder, "models.yaml");
  let saves = 0;
  meanwhile = () => {
    saves += 1;
    appendFileSync(path, `  - name: theirs${saves}\n`);
  };
  await expect(appendModels(path, ["b"], 5)).rejects.toThrow(`${path}: was changed again and again while models were added to it`);
  expect(saves).toBe(3);
  expect(readFileSync(path, "utf8")).not.toContain("name: b");
  expect(readdirSync(folder)).toEqual(["models.yaml"]);
});
