import { readFileSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import { endChildren, ROOT, script } from "./helpers/child.ts";

afterEach(endChildren);

const README = readFileSync(new URL("../README.md", import.meta.url), "utf8");

test("the first snippet is at most ten lines and runs as pasted", async () => {
  const code = /```js\n([\s\S]*?)```/.exec(README)?.[1] as string;
  expect(code.trim().split("\n").length).toBeLessThanOrEqual(10);
  // As pasted but for the port, which may be taken here.
  const listening = code.replace(
    "app.listen(8318);",
    'const server = app.listen(0, "127.0.0.1", () => console.log(`port ${server.address().port}`));',
  );
  expect(listening).not.toBe(code);
  const child = script(listening, { cwd: ROOT, env: { OPENAI_API_KEY: "sk-none" } });
  const port = /\d+/.exec(await child.line(/^port \d+/))?.[0] as string;
  const call = (key: string, body: object) =>
    fetch(`http://127.0.0.1:${port}/llm/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}` },
      body: JSON.stringify(body),
    });
  expect((await call("wrong", {})).status).toBe(401);
  const key = /key: "(qg_[^"]+)"/.exec(code)?.[1] as string;
  const refused = await call(key, { model: "gpt-4o", messages: [], max_tokens: 60_000 });
  expect([refused.status, await refused.json()]).toMatchObject([400, { error: { code: "budget_too_small", limit: "user-minute", scope: "user" } }]);
});

test("the promised links lead somewhere", () => {
  for (const [, path] of README.matchAll(/\]\((?!http)([^)#]+)\)/g)) expect(() => readFileSync(new URL(`../${path}`, import.meta.url))).not.toThrow();
});
