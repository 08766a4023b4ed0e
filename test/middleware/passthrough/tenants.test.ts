// All tenants share the provider's account. What one of them keeps there, the others must neither see, nor use, nor be able to tell from nothing.
import { describe, expect, test } from "vitest";
import type { Context } from "../../../src/core/context.ts";
import { GuardError } from "../../../src/core/errors.ts";
import { tenantOf } from "../../../src/middleware/passthrough/ownership.ts";
import { credential } from "../../pool/pool-kit.ts";
import { ALICE, BOB, CAROL, laneKit, MASTER, type LaneKit, type LaneKitOptions } from "./lane-kit.ts";
import { bodyOf, json, type ScriptedProvider } from "./provider-kit.ts";

const DAY = 86_400_000;

interface FakeFile {
  readonly id: string;
  readonly object: "file";
  readonly purpose: string;
}

interface FakeBatch {
  readonly id: string;
  readonly object: "batch";
  readonly input_file_id: string;
  output_file_id: string | null;
  error_file_id: string | null;
  status: string;
}

/** A provider's account: files and batches of everybody, newest first, as OpenAI lists them. */
function account(provider: ScriptedProvider, options: { readonly reuses?: boolean; readonly page?: number } = {}) {
  let count = 0;
  const files: FakeFile[] = [];
  const batches: FakeBatch[] = [];
  const none = json({ error: { message: "No such object", code: null } }, 404);
  const add = (purpose = "batch"): FakeFile => {
    const id = `file-${options.reuses ? 1 : (count += 1)}`;
    const file: FakeFile = { id, object: "file", purpose };
    files.unshift(file);
    return file;
  };
  provider.on("*", async (req, res, seen) => {
    await bodyOf(req);
    const url = new URL(req.url ?? "", "http://x");
    const [, , kind, id, action] = url.pathname.split("/");
    const reply = (body: unknown): void => json(body)(req, res);
    const all: (FakeFile | FakeBatch)[] = kind === "files" ? files : batches;
    if (req.method === "POST" && kind === "files") return reply(add());
    if (req.method === "POST" && kind === "batches" && id === undefined) {
      const { input_file_id } = JSON.parse(seen.body) as { input_file_id: string };
      const made: FakeBatch = {
        id: `batch-${(count += 1)}`,
        object: "batch",
        input_file_id,
        output_file_id: null,
        error_file_id: null,
        status: "validating",
      };
      batches.unshift(made);
      return reply(made);
    }
    if (id === undefined) {
      const after = url.searchParams.get("after");
      const size = Math.min(Number(url.searchParams.get("limit") ?? 20), options.page ?? Infinity);
      const from = after === null ? 0 : all.findIndex((each) => each.id === after) + 1;
      const data = all.slice(from, from + size);
      return reply({ object: "list", data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: from + size < all.length });
    }
    const found = all.find((each) => each.id === id);
    if (!found) return none(req, res);
    if (action === "content") return void res.end(`content of ${id}`);
    if (req.method === "DELETE") {
      all.splice(all.indexOf(found), 1);
      return reply({ id, object: "file", deleted: true });
    }
    return reply(found);
  });
  return { files, batches, add };
}

const form = (): FormData => {
  const data = new FormData();
  data.set("purpose", "batch");
  data.set("file", new Blob(["{}"]), "a.jsonl");
  return data;
};

async function uploaded(kit: LaneKit, key: string, headers: Record<string, string> = {}): Promise<string> {
  const response = await kit.call("POST", "/v1/files", { key, headers, body: form() });
  expect(response.status).toBe(200);
  return ((await response.json()) as FakeFile).id;
}

interface Listed {
  readonly ids: readonly string[];
  readonly hasMore: boolean;
  readonly last: string | null;
  readonly status: number;
}

async function listed(kit: LaneKit, path: string, key: string, headers: Record<string, string> = {}): Promise<Listed> {
  const response = await kit.call("GET", path, { key, headers });
  const list = (await response.json()) as {
    object: string;
    data: { id: string }[];
    has_more: boolean;
    first_id: string | null;
    last_id: string | null;
  };
  if (response.status !== 200) return { ids: [], hasMore: false, last: null, status: response.status };
  const ids = list.data.map(({ id }) => id);
  expect([list.object, list.first_id, list.last_id]).toEqual(["list", ids[0] ?? null, ids.at(-1) ?? null]);
  return { ids, hasMore: list.has_more, last: list.last_id, status: 200 };
}

const batchOf = (kit: LaneKit, key: string, file: string) =>
  kit.call("POST", "/v1/batches", { key, json: { input_file_id: file, endpoint: "/v1/chat/completions", completion_window: "24h" } });

describe("a file", () => {
  test("is its owner's, in every way to reach it", async () => {
    const kit = await laneKit();
    account(kit.provider);
    const id = await uploaded(kit, ALICE);
    expect(await (await kit.call("GET", `/v1/files/${id}/content`)).text()).toBe(`content of ${id}`);
    expect(await (await kit.call("GET", `/v1/files/${id}`)).json()).toMatchObject({ id });
    expect((await listed(kit, "/v1/files", ALICE)).ids).toEqual([id]);
    expect(await (await kit.call("DELETE", `/v1/files/${id}`)).json()).toMatchObject({ deleted: true });
    expect((await listed(kit, "/v1/files", ALICE)).ids).toEqual([]);
    expect((await kit.call("GET", `/v1/files/${id}`)).status).toBe(404);
    expect(await kit.store.records.list("passthrough/")).toEqual([]);
  });

  test("is not there for anybody else, and nothing of it reaches the provider", async () => {
    const kit = await laneKit();
    account(kit.provider);
    const id = await uploaded(kit, ALICE);
    const sent = kit.provider.log.length;
    for (const [method, path] of [
      ["GET", `/v1/files/${id}`],
      ["HEAD", `/v1/files/${id}`],
      ["GET", `/v1/files/${id}/content`],
      ["DELETE", `/v1/files/${id}`],
    ] as const) {
      const theirs = await kit.call(method, path, { key: BOB });
      const none = await kit.call(method, path.replace(id, "file-none"), { key: BOB });
      const withoutId = (text: string) => text.replace(/"request_id":"[^"]*"/, "");
      expect([theirs.status, withoutId(await theirs.text())]).toEqual([404, withoutId(await none.text())]);
    }
    expect((await listed(kit, "/v1/files", BOB)).ids).toEqual([]);
    expect((await batchOf(kit, BOB, id)).status).toBe(404);
    expect(kit.provider.log.length).toBe(sent);
  });

  test("named in any JSON body must be the tenant's", async () => {
    const kit = await laneKit();
    account(kit.provider);
    const id = await uploaded(kit, ALICE);
    kit.provider.on("POST /v1/images/edits", json({}));
    const edit = (key: string, more: object) => kit.call("POST", "/v1/images/edits", { key, json: { model: "m", ...more } });
    for (const naming of [
      { images: [{ file_id: id }] },
      { mask: { file_id: id } },
      { file_ids: [id] },
      { input: { deep: [{ image_file_id: id }] } },
    ]) {
      expect((await edit(BOB, naming)).status).toBe(404);
      expect((await edit(ALICE, naming)).status).toBe(200);
    }
    const many = await edit(ALICE, { file_ids: Array.from({ length: 65 }, (_, i) => `file-x${i}`) });
    expect(many.status).toBe(400);
  });

  test("made past the gateway is the master key's only", async () => {
    const kit = await laneKit();
    const { add } = account(kit.provider);
    const { id } = add();
    expect((await kit.call("GET", `/v1/files/${id}`)).status).toBe(404);
    expect((await kit.call("GET", `/v1/files/${id}`, { key: MASTER })).status).toBe(200);
    expect((await listed(kit, "/v1/files", ALICE)).ids).toEqual([]);
    expect((await listed(kit, "/v1/files", MASTER)).ids).toEqual([id]);
  });

  test("of another tenant is the master key's too", async () => {
    const kit = await laneKit();
    account(kit.provider);
    const [hers, his] = [await uploaded(kit, ALICE), await uploaded(kit, BOB)];
    expect((await listed(kit, "/v1/files", MASTER)).ids).toEqual([his, hers]);
    expect((await kit.call("DELETE", `/v1/files/${hers}`, { key: MASTER })).status).toBe(200);
    expect((await kit.call("GET", `/v1/files/${hers}`)).status).toBe(404);
    expect((await listed(kit, "/v1/files", ALICE)).ids).toEqual([]);
  });

  test("whose id a provider gives out again belongs to who got it last", async () => {
    const kit = await laneKit();
    account(kit.provider, { reuses: true });
    expect(await uploaded(kit, ALICE)).toBe(await uploaded(kit, BOB));
    expect((await kit.call("GET", "/v1/files/file-1")).status).toBe(404);
    expect((await kit.call("GET", "/v1/files/file-1", { key: BOB })).status).toBe(200);
    expect((await listed(kit, "/v1/files", ALICE)).ids).toEqual([]);
  });

  test("is known before its maker hears of it", async () => {
    const kit = await laneKit();
    account(kit.provider);
    const { put } = kit.store.records;
    const gate = Promise.withResolvers<void>();
    kit.store.records.put = async (...args) => {
      await gate.promise;
      return put(...args);
    };
    let answered = false;
    const pending = uploaded(kit, ALICE).then((id) => {
      answered = true;
      return id;
    });
    await expect.poll(() => kit.pool.health.left.length).toBe(1);
    expect(answered).toBe(false);
    gate.resolve();
    expect((await kit.call("GET", `/v1/files/${await pending}`)).status).toBe(200);
  });

  test("that cannot be noted as its maker's is not handed out, and the operator is told", async () => {
    const kit = await laneKit();
    account(kit.provider);
    kit.store.records.put = () => Promise.reject(new GuardError("store_unavailable", "the disk is full"));
    const response = await kit.call("POST", "/v1/files", { body: form() });
    expect([response.status, (await response.text()).includes("file-1")]).toEqual([503, false]);
    expect(kit.logger.lines).toMatchObject([{ level: "error", fields: { credential: "main", tenant: "key:alice", requestId: "id-1" } }]);
  });

  test("is forgotten after 400 days without use, and remembered by use", async () => {
    const kit = await laneKit();
    account(kit.provider);
    const id = await uploaded(kit, ALICE);
    kit.clock.advance(300 * DAY);
    expect((await kit.call("GET", `/v1/files/${id}`)).status).toBe(200);
    kit.clock.advance(300 * DAY);
    expect((await kit.call("GET", `/v1/files/${id}`)).status).toBe(200);
    kit.clock.advance(401 * DAY);
    expect((await kit.call("GET", `/v1/files/${id}`)).status).toBe(404);
  });

  test("that the provider refuses to make is nobody's", async () => {
    const kit = await laneKit();
    kit.provider.on("POST /v1/files", json({ error: { message: "bad purpose" }, id: "file-1" }, 400));
    expect((await kit.call("POST", "/v1/files", { body: form() })).status).toBe(400);
    expect(await kit.store.records.list("passthrough/")).toEqual([]);
  });
});

describe("a tenant", () => {
  const ORG = { "x-org-id": "acme" };

  test("is the organisation where there is one", async () => {
    const kit = await laneKit({
      auth: { kind: "custom", authenticate: (key) => ({ name: key ?? "", scopes: key === CAROL ? {} : { org: "acme", user: key } }) },
    });
    account(kit.provider);
    const id = await uploaded(kit, ALICE);
    expect((await kit.call("GET", `/v1/files/${id}`, { key: BOB })).status).toBe(200);
    expect((await kit.call("GET", `/v1/files/${id}`, { key: CAROL })).status).toBe(404);
  });

  test("is the host's user where the host authenticates, and one for all without users", async () => {
    const kit = await laneKit({ auth: { kind: "host" } });
    account(kit.provider);
    const common = await uploaded(kit, ALICE);
    expect((await kit.call("GET", `/v1/files/${common}`, { key: BOB })).status).toBe(200);
    expect(await kit.store.records.list("passthrough/theirs/common/")).toHaveLength(1);
  });

  test("cannot be called like another kind of tenant", async () => {
    const kit = await laneKit({
      auth: {
        kind: "custom",
        authenticate: (key) => (key === ALICE ? { name: "key:bob" } : { name: "bob", scopes: key === CAROL ? { org: "bob" } : {} }),
      },
    });
    account(kit.provider);
    const ids = [await uploaded(kit, ALICE), await uploaded(kit, BOB), await uploaded(kit, CAROL)];
    expect([await listed(kit, "/v1/files", ALICE), await listed(kit, "/v1/files", BOB), await listed(kit, "/v1/files", CAROL)]).toMatchObject(
      ids.map((id) => ({ ids: [id] })),
    );
  });

  test("that the master key speaks for gets what is made", async () => {
    const kit = await laneKit({ auth: undefined as never });
    account(kit.provider);
    const forAcme = await uploaded(kit, MASTER, ORG);
    const own = await uploaded(kit, MASTER);
    expect((await kit.store.records.list("passthrough/theirs/org%3Aacme/")).map(({ key }) => key)).toEqual([
      `passthrough/theirs/org%3Aacme/files/main/${forAcme}`,
    ]);
    expect((await kit.store.records.list("passthrough/theirs/master/")).map(({ key }) => key)).toEqual([
      `passthrough/theirs/master/files/main/${own}`,
    ]);
  });
});

describe("a batch", () => {
  test("and what it makes are its owner's", async () => {
    const kit = await laneKit();
    const { batches, files, add } = account(kit.provider);
    const made = (await (await batchOf(kit, ALICE, await uploaded(kit, ALICE))).json()) as FakeBatch;
    const [batch] = batches as [FakeBatch];
    expect(made.id).toBe(batch.id);
    Object.assign(batch, { status: "completed", output_file_id: add().id, error_file_id: add().id });
    expect((await kit.call("GET", `/v1/files/${batch.output_file_id}/content`)).status).toBe(404);

    expect((await kit.call("GET", `/v1/batches/${batch.id}`, { key: BOB })).status).toBe(404);
    expect((await kit.call("POST", `/v1/batches/${batch.id}/cancel`, { key: BOB })).status).toBe(404);
    expect((await listed(kit, "/v1/batches", BOB)).ids).toEqual([]);

    expect(await (await kit.call("GET", `/v1/batches/${batch.id}`)).json()).toEqual(batch);
    expect((await kit.call("GET", `/v1/files/${batch.output_file_id}/content`)).status).toBe(200);
    expect((await kit.call("GET", `/v1/files/${batch.error_file_id}/content`)).status).toBe(200);
    expect((await kit.call("GET", `/v1/files/${batch.output_file_id}/content`, { key: BOB })).status).toBe(404);
    expect((await kit.call("POST", `/v1/batches/${batch.id}/cancel`)).status).toBe(200);
    expect((await listed(kit, "/v1/files", ALICE)).ids).toEqual(files.map(({ id }) => id));
  });

  test("that its owner only sees in a list makes files for him too", async () => {
    const kit = await laneKit();
    const { batches, add } = account(kit.provider);
    await batchOf(kit, ALICE, await uploaded(kit, ALICE));
    const [batch] = batches as [FakeBatch];
    batch.output_file_id = add().id;
    expect((await listed(kit, "/v1/batches", ALICE)).ids).toEqual([batch.id]);
    expect((await kit.call("GET", `/v1/files/${batch.output_file_id}`)).status).toBe(200);
  });

  test("that the master key looks at makes files for its owner, not for the master", async () => {
    const kit = await laneKit();
    const { batches, add } = account(kit.provider);
    await batchOf(kit, ALICE, await uploaded(kit, ALICE));
    const [batch] = batches as [FakeBatch];
    batch.output_file_id = add().id;
    await (await kit.call("GET", `/v1/batches/${batch.id}`, { key: MASTER })).text();
    expect((await kit.call("GET", `/v1/files/${batch.output_file_id}`)).status).toBe(200);
  });

  test("does not take a file that is known to be somebody else's", async () => {
    const kit = await laneKit();
    const { batches } = account(kit.provider);
    await batchOf(kit, ALICE, await uploaded(kit, ALICE));
    const his = await uploaded(kit, BOB);
    (batches[0] as FakeBatch).output_file_id = his;
    await (await kit.call("GET", `/v1/batches/${batches[0]?.id}`)).text();
    expect((await kit.call("GET", `/v1/files/${his}`)).status).toBe(404);
    expect((await kit.call("GET", `/v1/files/${his}`, { key: BOB })).status).toBe(200);
  });
});

describe("lists", () => {
  test("find a tenant's few among everybody's many, page by page", async () => {
    const kit = await laneKit();
    const { add } = account(kit.provider, { page: 7 });
    const hers: string[] = [];
    for (let i = 0; i < 6; i += 1) {
      for (let other = 0; other < 10; other += 1) add();
      hers.unshift(await uploaded(kit, ALICE));
    }
    expect(await listed(kit, "/v1/files", ALICE)).toMatchObject({ ids: hers, hasMore: false });
    const first = await listed(kit, "/v1/files?limit=4", ALICE);
    expect(first).toMatchObject({ ids: hers.slice(0, 4), hasMore: true });
    expect(await listed(kit, `/v1/files?limit=4&after=${first.last}`, ALICE)).toMatchObject({ ids: hers.slice(4), hasMore: false });
    expect(kit.provider.log.at(-1)?.url).toContain("limit=1000&after=");
  });

  test("ask the provider nothing when there is nothing", async () => {
    const kit = await laneKit();
    expect(await listed(kit, "/v1/batches", ALICE)).toMatchObject({ ids: [], hasMore: false, status: 200 });
    expect(kit.provider.log).toEqual([]);
  });

  test("do not go on behind what is somebody else's", async () => {
    const kit = await laneKit();
    account(kit.provider);
    await uploaded(kit, ALICE);
    const his = await uploaded(kit, BOB);
    expect((await listed(kit, `/v1/files?after=${his}`, ALICE)).status).toBe(404);
  });

  test("keep the client's order and purpose, and nothing else of its query", async () => {
    const kit = await laneKit();
    account(kit.provider);
    await uploaded(kit, ALICE);
    await listed(kit, "/v1/files?purpose=a%26b&order=asc&limit=3&evil=1", ALICE);
    expect(kit.provider.log.at(-1)?.url).toBe("/v1/files?limit=1000&order=asc&purpose=a%26b");
    expect((await listed(kit, "/v1/files?limit=0", ALICE)).status).toBe(400);
    expect((await listed(kit, "/v1/files?limit=1&limit=2", ALICE)).status).toBe(400);
  });

  test("end with a server that knows no cursors, and go on behind one all the same", async () => {
    const kit = await laneKit();
    account(kit.provider);
    const [first, second] = [await uploaded(kit, ALICE), await uploaded(kit, ALICE)];
    const data = [{ id: "file-other" }, { id: first }];
    kit.provider.on("GET /v1/files", json({ object: "list", data, has_more: true }));
    expect(await listed(kit, "/v1/files", ALICE)).toMatchObject({ ids: [first], hasMore: false });
    expect(kit.provider.log.length).toBe(4);
    data.push({ id: second });
    const page = await listed(kit, "/v1/files?limit=1", ALICE);
    expect(page).toMatchObject({ ids: [first], hasMore: true });
    expect(await listed(kit, `/v1/files?limit=1&after=${page.last}`, ALICE)).toMatchObject({ ids: [second], hasMore: false });
  });

  test("that are too long to be searched say so", async () => {
    const kit = await laneKit();
    const { add } = account(kit.provider, { page: 1 });
    await uploaded(kit, ALICE);
    for (let i = 0; i < 60; i += 1) add();
    const response = await kit.call("GET", "/v1/files");
    expect([response.status, await response.json()]).toMatchObject([
      502,
      { error: { code: "upstream_protocol", message: expect.stringContaining("too long") } },
    ]);
    expect(kit.provider.log.length).toBe(51);
  });

  test.each<[string, (provider: ScriptedProvider) => void, number]>([
    ["is too large", (provider) => provider.on("GET /v1/files", (_req, res) => void res.writeHead(200).end("x".repeat(9_000_000))), 502],
    ["is no list", (provider) => provider.on("GET /v1/files", json({ data: 1 })), 502],
    ["is a refusal", (provider) => provider.on("GET /v1/files", json({ error: { message: "no" } }, 403)), 403],
  ])("whose page %s are refused", async (_what, script, status) => {
    const kit = await laneKit();
    account(kit.provider);
    await uploaded(kit, ALICE);
    script(kit.provider);
    expect((await kit.call("GET", "/v1/files")).status).toBe(status);
    expect(kit.pool.pool.inFlight("main")).toBe(0);
  });
});

describe("several accounts", () => {
  const two: Partial<LaneKitOptions> = {
    credentials: ({ url }) => [credential("one", { origin: url, basePath: "/one" }), credential("two", { origin: url, basePath: "/two" })],
  };

  /** Two accounts at one server, told apart by their base path. */
  async function start() {
    const kit = await laneKit(two);
    const held = { one: [] as string[], two: [] as string[] };
    let count = 0;
    kit.provider.on("*", async (req, res) => {
      await bodyOf(req);
      const [, place, , , id] = new URL(req.url ?? "", "http://x").pathname.split("/") as ["", "one" | "two", string, string, string | undefined];
      if (req.method === "POST") {
        const made = `file-${(count += 1)}`;
        held[place].push(made);
        json({ id: made })(req, res);
      } else if (id === undefined) json({ object: "list", data: held[place].map((each) => ({ id: each })), has_more: false })(req, res);
      else if (held[place].includes(id)) json({ id, place })(req, res);
      else json({ error: { message: "none" } }, 404)(req, res);
    });
    return { kit, held };
  }

  test("a tenant's files go to the same one, and are asked for there", async () => {
    const { kit, held } = await start();
    const hers = [await uploaded(kit, ALICE), await uploaded(kit, ALICE), await uploaded(kit, ALICE)];
    expect([held.one, held.two]).toContainEqual(hers);
    for (const id of hers) expect((await kit.call("GET", `/v1/files/${id}`)).status).toBe(200);
  });

  test("files at both are listed one after the other, and paging crosses over", async () => {
    const { kit, held } = await start();
    const first = await uploaded(kit, ALICE);
    const home = held.one.includes(first) ? "one" : "two";
    kit.pool.slots.short.set(`${home}//v1/files`, { waitMs: 1 });
    const second = await uploaded(kit, ALICE);
    kit.pool.slots.short.clear();
    expect([held.one.length, held.two.length]).toEqual([1, 1]);
    const all = [...held.one, ...held.two];
    expect(await listed(kit, "/v1/files", ALICE)).toMatchObject({ ids: all, hasMore: false });
    const page = await listed(kit, "/v1/files?limit=1", ALICE);
    expect(page).toMatchObject({ ids: [all[0]], hasMore: true });
    expect(await listed(kit, `/v1/files?limit=1&after=${page.last}`, ALICE)).toMatchObject({ ids: [all[1]], hasMore: false });
    expect(await (await kit.call("GET", `/v1/files/${second}`)).json()).toMatchObject({ place: home === "one" ? "two" : "one" });

    const mixed = await kit.call("POST", "/v1/images/edits", { json: { model: "m", file_ids: [first, second] } });
    expect([mixed.status, await mixed.json()]).toMatchObject([400, { error: { code: "body_invalid" } }]);
  });

  test("a list is not silently short when one of them cannot be asked", async () => {
    const { kit, held } = await start();
    const id = await uploaded(kit, ALICE);
    const home = held.one.includes(id) ? "one" : "two";
    kit.pool.slots.short.set(`${home}//v1/files`, { waitMs: 1_000 });
    expect((await kit.call("GET", "/v1/files")).status).toBe(429);
  });

  test("the master key sees all of them, also one without files", async () => {
    const { kit, held } = await start();
    await uploaded(kit, ALICE);
    await uploaded(kit, BOB);
    await uploaded(kit, CAROL);
    expect((await listed(kit, "/v1/files", MASTER)).ids.toSorted()).toEqual([...held.one, ...held.two].toSorted());
    kit.provider.on("GET /two/v1/files", json({ error: { message: "unknown path" } }, 404));
    expect((await listed(kit, "/v1/files", MASTER)).ids).toEqual(held.one);
  });
});

test.each([
  [{ kind: "key", name: "host" }, {}, "key:host"],
  [{ kind: "key", name: "host" }, { user: "alice" }, "key:host"],
  [{ kind: "host", name: "host" }, { user: "alice" }, "user:alice"],
  [{ kind: "host", name: "alice" }, {}, "key:alice"],
  [{ kind: "host", name: "host" }, {}, "common"],
] as const)("the tenant of %o with the scopes %o is %s", ({ kind, name }, scopes, tenant) => {
  const principal = { kind, name, scopes, models: null, mayAssertScopes: false };
  expect(tenantOf({ principal, scopes } as unknown as Context).name).toBe(tenant);
});
