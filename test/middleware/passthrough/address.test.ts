import { describe, expect, test } from "vitest";
import { afterPrefix, checkPath, forwardedQuery, parameter } from "../../../src/middleware/passthrough/address.ts";
import { lanePaths, operationOf, type LaneOperation } from "../../../src/middleware/passthrough/operations.ts";
import { refusalOf } from "../../core/context-kit.ts";
import { rawClient } from "../../http/server-kit.ts";
import { ALICE, laneKit, MASTER } from "./lane-kit.ts";
import { json } from "./provider-kit.ts";

describe("operations", () => {
  const known = (kind: LaneOperation["kind"], name: string, route: string, more: Partial<LaneOperation> = {}): LaneOperation => ({
    kind,
    name,
    route,
    resource: null,
    id: null,
    isFree: false,
    runsModel: false,
    ...more,
  });
  const files = (kind: LaneOperation["kind"], route: string, id: string | null = null) =>
    known(kind, "/v1/files", route, { resource: "files", id, isFree: true });
  const batches = (kind: LaneOperation["kind"], route: string, id: string | null = null) =>
    known(kind, "/v1/batches", route, { resource: "batches", id, isFree: true });
  const run = (family: string) => known("run", `/v1/${family}`, `/v1/${family}/*`, { runsModel: true });
  const other = (isFree: boolean, resource: LaneOperation["resource"] = null) =>
    known("other", "/v1/*", "/v1/*", { isFree, runsModel: !isFree, resource });

  test.each<[string, string, LaneOperation]>([
    ["POST", "/v1/images/generations", run("images")],
    ["POST", "/v1/images/edits", run("images")],
    ["POST", "/v1/audio/transcriptions", run("audio")],
    ["GET", "/v1/audio/voices", other(true)],
    ["POST", "/v1/audio/voices/a", other(false)],
    ["POST", "/v1/files", files("create", "/v1/files")],
    ["GET", "/v1/files", files("list", "/v1/files")],
    ["GET", "/v1/files/file-1", files("item", "/v1/files/{id}", "file-1")],
    ["HEAD", "/v1/files/file-1", files("item", "/v1/files/{id}", "file-1")],
    ["DELETE", "/v1/files/file-1", files("item", "/v1/files/{id}", "file-1")],
    ["GET", "/v1/files/file-1/content", files("item", "/v1/files/{id}/content", "file-1")],
    ["POST", "/v1/files/file-1/content", other(false, "files")],
    ["PUT", "/v1/files", other(false, "files")],
    ["GET", "/v1/files/file-1/content/more", other(true, "files")],
    ["POST", "/v1/batches", { ...batches("create", "/v1/batches"), isFree: false, runsModel: true }],
    ["GET", "/v1/batches", batches("list", "/v1/batches")],
    ["GET", "/v1/batches/b-1", batches("item", "/v1/batches/{id}", "b-1")],
    ["POST", "/v1/batches/b-1/cancel", batches("item", "/v1/batches/{id}/cancel", "b-1")],
    ["GET", "/v1/batches/b-1/cancel", other(true, "batches")],
    ["DELETE", "/v1/batches/b-1", other(true, "batches")],
    ["GET", "/v1/realtime", known("realtime", "/v1/realtime", "/v1/realtime", { runsModel: true })],
    ["POST", "/v1/realtime/client_secrets", other(false)],
    ["GET", "/v1/vector_stores", other(true)],
    ["DELETE", "/v1/vector_stores/vs_1", other(true)],
  ])("%s %s", (method, path, operation) => {
    expect(operationOf(method, path)).toEqual(operation);
  });

  test("no client can make up a name or a route", () => {
    const made = new Set<string>();
    for (const path of ["/v1/a", "/v1/b/c", "/v1/images/x", "/v1/images/y", "/v1/files/1", "/v1/files/2", "/v1/files/1/x"])
      for (const method of ["GET", "POST", "BREW"]) for (const text of Object.values(operationOf(method, path)).slice(1, 3)) made.add(String(text));
    expect([...made].toSorted()).toEqual(["/v1/*", "/v1/files", "/v1/files/{id}", "/v1/images", "/v1/images/*"]);
  });

  test.each<[string, readonly string[] | "default", boolean, boolean, boolean]>([
    ["POST /v1/images/generations", "default", false, true, true],
    ["GET /v1/audio/voices", "default", false, true, false],
    ["GET /v1/vector_stores", "default", false, false, false],
    ["GET /v1/vector_stores", "default", true, true, false],
    ["GET /v1/vector_stores", ["/v1/vector_stores*"], false, true, true],
    ["POST /v1/images/generations", ["/v1/vector_stores*"], false, false, false],
    ["POST /v1/images/generations", ["/v1/vector_stores*"], true, true, false],
    ["PUT /v1/files/file-1", ["/v1/*"], false, true, false],
    ["GET /v1/files/file-1", ["/v1/*"], false, true, true],
    ["GET /other", "default", true, false, false],
  ])("%s with paths %j (all others: %j) is taken: %j, open to any key: %j", (what, paths, others, takes, isOpen) => {
    const [method, path] = what.split(" ") as [string, string];
    const lane = lanePaths(paths, others);
    expect([lane.takes(path), lane.isOpen(operationOf(method, path), path)]).toEqual([takes, isOpen]);
  });
});

describe("paths", () => {
  test.each(["/v1/files", "/v1/files/file-a_B.9/content", "/v1/models/ft:gpt-4o:org::id@1~x"])("%s is plain", (path) => {
    expect(() => checkPath(path)).not.toThrow();
  });

  test.each([
    "/v1/files/..",
    "/v1/files/../chat",
    "/v1/files/./a",
    "/v1/files/.hidden",
    "/v1/files//a",
    "/v1/files/",
    "/v1/files/%2e%2e",
    "/v1/files/a%2fb",
    "/v1/files/a%5cb",
    "/v1/files/a\\b",
    "/v1/files/a;b",
    "/v1/files/a b",
    "/v1/files/a\tb",
    "/v1/files/a\u00e4",
    "/v1/files/a#b",
    "//evil.example/v1/files",
    "http://evil.example/v1/files",
    "",
  ])("%j is not", (path) => {
    expect(refusalOf(() => checkPath(path)).code).toBe("not_found");
  });

  test.each([
    ["/v1/files", "/v1/files"],
    ["/any/prefix/v1/files?x=/v1/batches", "/v1/files"],
    ["/llm/v1/a/v1/files", "/v1/files"],
    ["/v2/files", null],
    ["http://x/v1/files", null],
  ])("behind its prefix %j is %j", (url, path) => {
    expect(afterPrefix(url)).toBe(path);
  });

  test("none of these tricks reaches the provider, and none the host's routes", async () => {
    const kit = await laneKit();
    kit.provider.on("*", json({}));
    for (const target of [
      "/llm/v1/files/../chat/completions",
      "/llm/v1/files/%2e%2e/models",
      "/llm/v1/files/a%2f..%2f..%2fmodels",
      "/llm/v1/files/a%00",
      "/llm/v1/files//x",
      "/llm/v1/files/a\\..\\b",
      "/llm//v1/files",
      "/llm/v1/files/%",
    ]) {
      const raw = await rawClient(kit.port, `GET ${target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${MASTER}\r\nconnection: close\r\n\r\n`);
      await raw.closed;
      expect([target, raw.received().slice(9, 12)]).toEqual([target, target.startsWith("/llm//") ? "418" : "404"]);
    }
    for (const target of ["http://evil.example/llm/v1/files", "http://169.254.169.254/v1/files", "*"]) {
      const raw = await rawClient(kit.port, `GET ${target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${MASTER}\r\nconnection: close\r\n\r\n`);
      await raw.closed;
      expect([target, raw.received()]).toEqual([target, expect.stringMatching(/^HTTP\/1.1 4\d\d/)]);
    }
    expect(kit.provider.log).toEqual([]);
  });

  test.each(["TRACE", "PROPFIND", "LINK"])("%s is not passed through, even for the master key", async (method) => {
    const kit = await laneKit({ others: true });
    const raw = await rawClient(
      kit.port,
      `${method} /llm/v1/threads HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${MASTER}\r\nconnection: close\r\n\r\n`,
    );
    await raw.closed;
    expect(raw.received()).toMatch(/^HTTP\/1.1 405 .*allow: GET, HEAD, POST, PUT, PATCH, DELETE/is);
    expect(kit.provider.log).toEqual([]);
  });

  test("a body where none belongs cannot become a request of its own", async () => {
    const kit = await laneKit();
    kit.provider.on("*", json({}));
    const smuggled = "DELETE /v1/files/file-2 HTTP/1.1\r\nhost: x\r\n\r\n";
    for (const framing of [
      `content-length: ${smuggled.length}\r\n\r\n${smuggled}`,
      `transfer-encoding: chunked\r\n\r\n${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
    ]) {
      const raw = await rawClient(kit.port, `GET /llm/v1/files/file-1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${MASTER}\r\n${framing}`);
      await raw.closed;
      expect(raw.received()).toMatch(/^HTTP\/1.1 400 /);
    }
    expect(kit.provider.log).toEqual([]);
  });
});

describe("queries", () => {
  test.each([
    ["", ""],
    ["a=1&b=%20&c", "?a=1&b=%20&c"],
    ["a=1&&b", "?a=1&b"],
    ["key=k", ""],
    ["api_key=k&a=1&API-KEY=k&x-api-key=k&access_token=k&token=k&authorization=k&%6bey=k", "?a=1"],
    [`a=${ALICE}&b=Bearer+${ALICE}&c=x${ALICE}`, `?c=x${ALICE}`],
    ["monkey=1&keys=2&page_token=3", "?monkey=1&keys=2&page_token=3"],
  ])("%j goes on as %j", (query, sent) => {
    expect(forwardedQuery(query, ALICE, null)).toBe(sent);
  });

  test("the model's name is replaced, however it is spelled", () => {
    expect(forwardedQuery("a=1&mod%65l=x&b=2", null, "ft:a b")).toBe("?a=1&model=ft%3Aa%20b&b=2");
  });

  test.each(["a=%", "a=%zz", "a=\u00e4", "a=b c", "a=%ff"])("%j is refused", (query) => {
    expect(refusalOf(() => forwardedQuery(query, null, null)).code).toBe("body_invalid");
  });

  test("a parameter stands once, or nobody knows which one counts", () => {
    expect([parameter("a=1&b=+x", "b"), parameter("a=1", "b"), parameter("", "b"), parameter("b", "b")]).toEqual([" x", null, null, ""]);
    expect(refusalOf(() => parameter("b=1&%62=2", "b"))).toMatchObject({ code: "body_invalid", param: "b" });
  });
});
