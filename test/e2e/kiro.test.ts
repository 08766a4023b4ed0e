// Kiro behind a whole guard: what no other provider does.
import { fakeUpstream, type FakeReply, type FakeUpstream } from "quotaguard/testing";
import type { GuardOptions, PluginHost } from "quotaguard";
import { afterEach, describe, expect, test } from "vitest";
import { exception, frame, stream } from "../dialects/kiro/kit.ts";
import { chat, testGateway, type TestGateway } from "../helpers/app.ts";
import { endChildren, ROOT, script } from "../helpers/child.ts";

const endings: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  await endChildren();
  for (const end of endings.splice(0).toReversed()) await end();
});

const MODEL = "kiro-claude-sonnet-4-5";
const ARN = "arn:aws:codewhisperer:eu-central-1:000000000000:profile/EXAMPLE";

async function provider(): Promise<FakeUpstream> {
  const upstream = await fakeUpstream();
  endings.push(() => upstream.close());
  return upstream;
}

async function gateway(upstreams: readonly FakeUpstream[], more: GuardOptions = {}): Promise<TestGateway> {
  const credentials = upstreams.map(({ url }, i) => ({
    name: `k${i}`,
    provider: "kiro",
    apiKey: `aoa-${i}`,
    baseUrl: url,
    priority: -i,
    profileArn: ARN,
  }));
  const made = await testGateway({ credentials, models: [{ name: MODEL, price: { inputPerMtok: 100, outputPerMtok: 100 } }], ...more });
  endings.push(made.close);
  return made;
}

const ask = async ({ url }: TestGateway, body: Record<string, unknown> = {}) => {
  const response = await chat(url, { model: MODEL, ...body });
  return { status: response.status, text: await response.text(), headers: response.headers };
};

/** A body that ends as HTTP says, whatever it lacks. */
const raw = (body: Buffer): FakeReply => ({ headers: { "content-type": "application/vnd.amazon.eventstream" }, body });
const codeOf = ({ text }: { readonly text: string }): unknown => (JSON.parse(text) as { readonly error: { readonly code: unknown } }).error.code;

test("is asked for its own model, in the account's name; its models are listed", async () => {
  const upstream = await provider();
  const at = await gateway([upstream]);
  expect((await ask(at)).text).toContain("You said: hello");
  expect(upstream.log[0]?.call?.model).toBe("claude-sonnet-4.5");
  expect(JSON.parse(String(upstream.log[0]?.body))).toMatchObject({
    profileArn: ARN,
    conversationState: { conversationId: expect.any(String) as string },
  });
  const listed = await fetch(`${at.url}/llm/v1/models`, { headers: { authorization: "Bearer qg-test-key-of-alice-0001" } });
  expect(((await listed.json()) as { data: { id: string }[] }).data.map(({ id }) => id)).toEqual(expect.arrayContaining(["kiro-auto", MODEL]));
});

test.each([false, true])("an answer that tells no usage is counted; streamed: %s", async (isStream) => {
  const upstream = await provider();
  const at = await gateway([upstream], { limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 5, per: "day" } }] });
  upstream.script({ usage: "missing", text: ["one ", "two ", "three"] });
  expect((await ask(at, { stream: isStream })).status).toBe(200);
  await expect
    .poll(async () => (await at.guard.remaining({ user: "alice" }))[0])
    .toMatchObject({ held: 0, used: expect.toSatisfy((used: number) => used >= 4 / 10_000) as number });
});

describe("a stream that ends too soon", () => {
  const said = frame(["assistantResponseEvent", { content: "half of it" }]);
  test.each<[string, Buffer]>([
    ["between two frames, properly", said],
    ["inside a frame", Buffer.concat([said, said.subarray(0, 30)])],
    ["in damage", Buffer.concat([said, Buffer.alloc(40, 7)])],
    ["before it began", Buffer.alloc(0)],
  ])("%s: nobody takes it for an answer", async (_name, body) => {
    const upstream = await provider();
    const at = await gateway([upstream], { resilience: { maxRetries: 0 } });
    upstream.script(raw(body));
    const whole = await ask(at);
    expect([whole.status, codeOf(whole)]).toEqual([502, "upstream_protocol"]);
    const { text } = await ask(at, { stream: true });
    expect(text).toContain("upstream_protocol");
    expect(text).not.toMatch(/finish_reason":"|\[DONE\]/);
  });

  test("a whole answer is asked for elsewhere, and so is a stream that begins with its failure", async () => {
    const [first, second] = [await provider(), await provider()];
    const at = await gateway([first, second]);
    first.script(raw(said));
    expect((await ask(at)).text).toContain("You said: hello");
    at.guard.admin.clearCooldowns("k0", null);
    first.script(
      raw(Buffer.concat([frame(["initial-response", { conversationId: "c" }]), exception("ThrottlingException", { message: "slow down" })])),
    );
    expect((await ask(at, { stream: true })).text).toMatch(/You[^]*hello[^]*\[DONE\]/);
    expect([first.log.length, second.log.length]).toEqual([2, 2]);
  });
});

test("a failure in mid-stream is told once, in the caller's words, and no end is forged", async () => {
  const upstream = await provider();
  const at = await gateway([upstream]);
  upstream.script(
    raw(Buffer.concat([stream(["assistantResponseEvent", { content: "so far" }]), exception("InternalServerException", { message: "broken" })])),
  );
  const { text } = await ask(at, { stream: true });
  expect(text).toContain("so far");
  expect(text.match(/"error"/g)).toHaveLength(1);
  expect(text).not.toMatch(/finish_reason":"|\[DONE\]/);
});

test("a token that is refused with 403 is renewed, and the next request has the new one", async () => {
  const upstream = await provider();
  upstream.script(({ headers }) =>
    headers.authorization === upstream.digest("new")
      ? undefined
      : { status: 403, body: { message: "The bearer token included in the request is invalid.", reason: null } },
  );
  let renewed = 0;
  const accounts = {
    name: "accounts",
    setup({ credentials }: PluginHost) {
      credentials.upsert({ name: "k", provider: "kiro", apiKey: "old", baseUrl: upstream.url, region: "eu-west-1" });
      credentials.refresher("kiro", () => {
        renewed += 1;
        return Promise.resolve({ apiKey: "new", expiresAt: null });
      });
    },
  };
  const at = await gateway([], { plugins: [accounts] });
  expect((await ask(at)).status).toBe(403);
  await expect.poll(async () => (await ask(at)).status, { timeout: 10_000 }).toBe(200);
  expect(renewed).toBe(1);
});

test("what it cannot be told is refused by its name before it is asked, or dropped where that is preferred", async () => {
  const upstream = await provider();
  const format = { response_format: { type: "json_object" } };
  const refused = await ask(await gateway([upstream]), format);
  expect([refused.status, refused.text]).toEqual([422, expect.stringContaining("response_format")]);
  expect(upstream.log).toHaveLength(0);
  const lossy = await ask(await gateway([upstream], { router: { lossy: true } }), { ...format, seed: 5 });
  expect([lossy.status, lossy.headers.get("x-quotaguard-dropped")]).toEqual([200, "response_format, seed"]);
});

test("what reads its answers is loaded with its first account, and by nobody else", async () => {
  const code = `
    import { createRequire } from "node:module";
    const isLoaded = () => Object.keys(createRequire(import.meta.url).cache).some((path) => path.includes("eventstream-codec"));
    const { createGuard } = await import("quotaguard");
    const steps = [];
    for (const provider of ["anthropic", "kiro"]) {
      await createGuard({ credentials: [{ name: "a", provider, apiKey: "k" }] }).close();
      steps.push(isLoaded());
    }
    console.log(JSON.stringify(steps));`;
  const { code: status, stdout, stderr } = await script(code, { cwd: ROOT }).ended;
  expect([status, stderr, JSON.parse(stdout)]).toEqual([0, "", [false, true]]);
});
