// What anybody may know of a server's accounts: whether they can serve, and nothing that is secret.
import { afterEach, describe, expect, test } from "vitest";
import { accounts, ADMIN, endAccounts, keyOf, MODEL } from "./accounts-kit.ts";
import { endChildren, folder, serving, type Folder } from "../helpers/child.ts";

afterEach(endAccounts);

const OTHER = "gpt-4o";

describe("what /health of a server says", () => {
  let place: Folder;
  afterEach(async () => {
    await endChildren();
    place.remove();
  });

  interface Health {
    readonly status: number;
    readonly text: string;
    readonly body: Record<string, unknown>;
  }

  async function server(names: readonly string[]) {
    place = folder();
    const kit = await accounts(names.map((name) => ({ name })));
    const entry = (name: string): string => {
      const limits = name === "c" ? ", rpm: 1" : "";
      return `  - { name: ${name}, api_key: ${keyOf(name)}, base_url: "${kit.providers[name]?.url}", models: [${MODEL}, ${OTHER}]${limits} }`;
    };
    place.write(
      "quotaguard.yaml",
      `
server: { port: 0 }
store: { url: memory }
management: { key: ${ADMIN} }
keys: [{ name: alice, key: qg-key-of-alice-0001 }]
router: { strategy: fill-first }
fail2ban: { max_attempts: 1, ban_duration: permanent, error_codes: [500] }
credentials:
${names.map(entry).join("\n")}
`,
    );
    const { url } = await serving([], { cwd: place.path });
    const post = (model: string) =>
      fetch(`${url}/v1/chat/completions`, {
        method: "POST",
        headers: { authorization: "Bearer qg-key-of-alice-0001" },
        body: JSON.stringify({ model, messages: [] }),
      });
    const health = async (): Promise<Health> => {
      const response = await fetch(`${url}/health`);
      const text = await response.text();
      return { status: response.status, text, body: JSON.parse(text) as Record<string, unknown> };
    };
    const manage = async (method: string, path: string): Promise<number> =>
      (await fetch(`${url}/v0/management/${path}`, { method, headers: { authorization: `Bearer ${ADMIN}` } })).status;
    return { kit, post, health, manage };
  }

  test("who is banned, cooling, at the limit or ready, without a secret; one banned model does not take an account out", async () => {
    const { kit, post, health } = await server(["a", "b", "c", "d"]);
    expect(await health()).toMatchObject({ status: 200, body: { status: "healthy", total_credentials: 4, credentials_available: 4 } });
    kit.answer("a", ({ body }) => (body["model"] === MODEL ? { status: 500 } : {}));
    kit.answer("b", ({ body }) => (body["model"] === MODEL ? { status: 429, headers: { "retry-after": "600" } } : {}));
    expect((await post(MODEL)).status).toBe(200);
    expect((await post(MODEL)).status).toBe(200);
    expect(kit.asked()).toBe("abcd");
    const one = await health();
    expect(one.status).toBe(200);
    expect(one.body).toMatchObject({
      status: "healthy",
      credentials_available: 4,
      credentials_banned: 0,
      credentials: {
        a: { state: "ready", models: { [MODEL]: { state: "banned" } } },
        b: { state: "ready", models: { [MODEL]: { state: "cooling", until: expect.stringMatching(/^\d{4}-\d\d-\d\dT/) } } },
        c: { state: "limited", until: expect.stringMatching(/^\d{4}-\d\d-\d\dT/) },
        d: { state: "ready" },
      },
    });

    // Now the other model, too: these two can serve nothing any more.
    kit.answer("a", { status: 500 });
    kit.answer("b", { status: 429, headers: { "retry-after": "600" } });
    expect((await post(OTHER)).status).toBe(200);
    const two = await health();
    expect(two).toMatchObject({
      status: 200,
      body: {
        credentials_available: 2,
        credentials_banned: 1,
        credentials: { a: { state: "banned" }, b: { state: "cooling" }, c: { state: "limited" }, d: { state: "ready" } },
      },
    });
    for (const secret of ["sk-upstream", ADMIN, "qg-key", "alice", "127.0.0.1", "http"]) expect(one.text + two.text).not.toContain(secret);
  });

  test("no 503 while an account is merely at its limit", async () => {
    const { kit, post, health } = await server(["c"]);
    await post(MODEL);
    expect((await post(MODEL)).status).toBe(429);
    expect(await health()).toMatchObject({ status: 200, body: { credentials: { c: { state: "limited" } } } });
    expect(kit.asked()).toBe("c");
  });

  test("503 when every model of every account is banned, and 200 again once one is let in", async () => {
    const { kit, post, health, manage } = await server(["a"]);
    kit.answer("a", { status: 500 });
    await post(MODEL);
    expect((await health()).status).toBe(200);
    await post(OTHER);
    const { status, body } = await health();
    expect([status, body["status"], body["credentials_available"], body["credentials_banned"]]).toEqual([503, "unhealthy", 0, 1]);
    expect(await manage("DELETE", `bans/a?model=${OTHER}`)).toBe(200);
    expect((await health()).status).toBe(200);
  });

  test("503 while the only account cools or its breaker is open, and until when", async () => {
    const { kit, post, health, manage } = await server(["b"]);
    kit.answer("b", { status: 429, headers: { "retry-after": "600" } });
    for (const model of [MODEL, OTHER]) expect((await post(model)).status).toBe(429);
    const until = expect.stringMatching(/^\d{4}-\d\d-\d\dT/);
    expect(await health()).toMatchObject({ status: 503, body: { credentials_available: 0, credentials: { b: { state: "cooling", until } } } });
    await manage("DELETE", "cooldowns/b");
    expect((await health()).status).toBe(200);
    kit.answer("b", { status: 503 });
    for (let i = 0; i < 5; i += 1) expect((await post(MODEL)).status).toBe(503);
    expect(await health()).toMatchObject({ status: 503, body: { credentials_available: 0, credentials: { b: { state: "failing", until } } } });
  });
});
