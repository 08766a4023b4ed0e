import { expect, test } from "vitest";
import { management, USAGE } from "./management-kit.ts";

test("the ledger's usage is told as it is, by what was asked for", async () => {
  const { ask, admin } = await management();
  const { body } = await ask(
    "/usage/ledger?from=2026-01-01&to=2026-02-01T00:00:00Z&group_by=model,day,scope.feature&org=acme&scope.role=dev&key=alice&tag=nightly&route=%2Fv1%2Fresponses",
  );
  expect(body).toEqual({ usage: [USAGE] });
  expect(admin.calls).toEqual([
    {
      name: "usage",
      args: [
        {
          from: "2026-01-01",
          to: "2026-02-01T00:00:00Z",
          groupBy: ["model", "day", "scope.feature"],
          scopes: { org: "acme", role: "dev" },
          key: "alice",
          tag: "nightly",
          route: "/v1/responses",
        },
      ],
    },
  ]);
});

test("of everything is what is asked for by nothing", async () => {
  const { ask, admin } = await management();
  for (const query of ["", "?group_by="]) await ask(`/usage/ledger${query}`);
  expect(admin.calls.map(({ args }) => args)).toEqual([[{ scopes: {} }], [{ groupBy: [], scopes: {} }]]);
});

test("ms since the epoch are a time", async () => {
  const { ask, admin } = await management();
  expect((await ask("/usage/ledger?from=1767225600000")).status).toBe(200);
  expect(admin.calls[0]?.args[0]).toEqual({ from: 1_767_225_600_000, scopes: {} });
});

test.each([
  ["from=yesterday", "from", "expected a date such as"],
  ["from=2026", "from", "expected a date such as"],
  ["from=20260101", "from", "expected a date such as"],
  ["to=", "to", "expected a date such as"],
  ["from=2026-13-45", "from", "expected a date such as"],
  ["from=2026-01-01&from=2026-02-01", "from", "more than once"],
  ["from=2026-02-01&to=2026-02-01", "to", "later than from"],
  ["group_by=modle", "group_by[0]", "unknown group modle; did you mean model?"],
  ["group_by=model,", "group_by[1]", "unknown group"],
  ["group_by=scope.", "group_by[0]", "unknown group"],
  ["group_by=scope.day", "group_by[0]", null],
  ["org=a&org=b", "org", "more than once"],
  ["org=", "scopes.org", "has no value: leave it out if all are meant"],
  ["scope.key=a&key=b", "key", "is another one than scopes.key"],
  ["modell=gpt-4o", "modell", "did you mean model?"],
  ["format=xml", "format", "expected one of json, csv"],
  ["limit=5", "limit", "unknown parameter"],
])("asked for by %s is refused by name", async (query, param, message) => {
  const { ask, admin } = await management();
  const { status, body } = await ask(`/usage/ledger?${query}`);
  if (message === null) return expect(status).toBe(200);
  expect([status, body.code, admin.calls]).toEqual([400, "body_invalid", []]);
  expect(body.param).toBe(param);
  expect(body.detail).toContain(message);
});

const HEAD =
  "model,day,requests,refused,estimated,unpriced,inputTokens,cacheReadTokens,cacheWriteTokens,outputTokens,reasoningTokens,totalTokens,rawUsd,billedUsd";

test("a spreadsheet gets CSV, by a parameter or by what it accepts, with all digits of the money", async () => {
  const { ask, admin } = await management();
  admin.rows = [{ ...USAGE, rawNanoUsd: "9007199254740993", billedNanoUsd: "7" }];
  for (const [path, accept] of [
    ["/usage/ledger?group_by=model,day&format=csv", "*/*"],
    ["/usage/ledger?group_by=model,day", "text/csv"],
  ] as const) {
    const { status, headers, body } = await ask(path, { headers: { accept } });
    expect([status, headers.get("content-type"), headers.get("content-disposition")]).toEqual([
      200,
      "text/csv; charset=utf-8",
      'attachment; filename="usage.csv"',
    ]);
    expect(body.text).toBe(`${HEAD}\r\ngpt-4o,2026-01-01,2,1,0,0,3,1,0,4,2,7,9007199.254740993,0.000000007\r\n`);
  }
  for (const accept of ["*/*", "application/json", "text/html"])
    expect((await ask("/usage/ledger", { headers: { accept } })).body).toHaveProperty("usage");
  expect((await ask("/usage/ledger?format=json", { headers: { accept: "text/csv" } })).body).toHaveProperty("usage");
});

test.each([
  ["=HYPERLINK(1)", "'=HYPERLINK(1)"],
  ["+1", "'+1"],
  ["-2+3", "'-2+3"],
  ["@SUM(A1)", "'@SUM(A1)"],
  ["\t=1", "'\t=1"],
  ['say "hi", twice', '"say ""hi"", twice"'],
  ['=A1&"x"', `"'=A1&""x"""`],
  ["two\nlines", '"two\nlines"'],
  ["plain-name", "plain-name"],
])("the name %j is no formula and one cell", async (model, cell) => {
  const { ask, admin } = await management();
  admin.rows = [{ ...USAGE, group: { model } }];
  const { body } = await ask("/usage/ledger?group_by=model&format=csv");
  expect(String(body.text).slice(HEAD.length - 4 + 2)).toBe(`${cell},2,1,0,0,3,1,0,4,2,7,1.500000000,1.650000000\r\n`);
});
