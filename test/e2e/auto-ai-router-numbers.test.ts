/*
 * The numbers that auto_ai_router's own tests pin down, and the faults that were found in it: where each is proven here, or why it is otherwise here.
 * `file > title` names a test below test/ (`here` = this file); the first test of this file sees to it that all of them exist.
 *
 * Choice of an account
 *   three in turn: 1 2 3 1 2 3                                  | e2e/selection > three accounts: 1 2 3 1 2 3
 *   10 calls for others between: still 1 2 3 4 1 2 3 4          | e2e/selection > ten requests for another set of accounts in between change nothing
 *   without 1 and 3 of four: 2 4 2                              | e2e/selection > without the first and third of four: 2 4 2
 *   one a minute on two accounts: the third is refused          | e2e/selection > one request each a minute on two accounts: the third is refused
 *   all banned: there 429, here 503, as waiting does not help   | e2e/credential-bans > comes with the third error of a kind
 *   primary without tokens, idle fallback: there refused, here the fallback answers: that is what it is for
 *     | e2e/send-limits > a primary without tokens left and an idle fallback: the fallback answers
 *   fallbacks take turns
 *     | e2e/selection > fallbacks only when all others are %s, whatever their priority, and in turn
 *   only the first of two fallbacks is called                   | here > of two fallbacks the second is asked only when the first cannot
 *
 * Limits
 *   N allows exactly N, by parallel callers too                 | e2e/send-limits > 200 at once: the model's 50 go out on each of three accounts
 *   0 denies                                                    | e2e/send-limits > an explicit 0 lets nothing out, of an account and of a model
 *   -1 always allows, yet counts; two minutes later nothing counts
 *                                                               | e2e/send-limits > -1 is unlimited, and counted all the same
 *   a refusal for the model takes nothing from the account      | e2e/send-limits > refusals take nothing: neither from the account
 *   100 of 100 tokens used: refused                             | e2e/send-limits > 100 used of 100 refuse the next
 *   limits reached: 429                                         | e2e/send-limits > whoever waits as long as Retry-After says is served
 *
 * Bans
 *   the third 401 of three                                      | here > the third 401 of three bans
 *   two errors, then a success: none                            | e2e/credential-bans > a success in between
 *   a 404 that is not listed                                    | e2e/credential-bans > codes that are not listed
 *   first 429 for 10 s, second 503, third 500                   | e2e/credential-bans > rules of single codes, with times of their own
 *   account 1 model A leaves account 1 model B
 *     | e2e/credential-bans > leaves the account's other models and the model's other accounts alone
 *   while banned, further 401 and 200 change nothing            | e2e/credential-bans > is not touched by answers that were still under way
 *   over after its time with counters at 0; not listed any more | e2e/credential-bans > of a time ends by itself, with its counters at zero
 *
 * Failing over
 *   401, 403, 429, 5xx, resets, hang-ups, garbage               | e2e/failover > %s goes on to the next credential, for answers
 *   400, 404, 413, 422: never                                   | e2e/cooldowns > a %i is the request's own fault
 *   words such as "content policy", "model not found"           | e2e/cooldowns > a refusal of this very request in words, whatever its status
 *   primary 429, fallback 200: one call each                    | e2e/selection > a busy account and a fallback that can: one request each
 *   the fallback's 500 is what the client sees                  | e2e/selection > a fallback's own failure is what the client sees, as it came
 *   404 "model does not exist": no fallback                     | e2e/selection > a model that nobody has goes to no fallback
 *   a 500 that says it is a stream: there passed on, here it fails over: nothing of it has reached the client
 *                                                               | here > a 500 that calls itself a stream goes on to the next account
 *   the same bytes and its own key on each hop                  | e2e/failover > each hop gets its own key and the same bytes
 *   a client's X-Custom header goes on: not here, where a list says what may
 *                                                               | middleware/proxy-headers > the provider sees its own key
 *   an upstream 500 stays 500                                   | e2e/failover > all failed: the last provider's answer passes through
 *   two retries unless said otherwise                           | config/auto-ai-router > two retries
 *   a wrong key: 401                                            | middleware/fail2ban > ban their address with exactly the try that is one too many
 *   compressing answers anew by Accept-Encoding: the host's own middleware does it here
 *                                                               | e2e/host-middleware > compression() packs whole answers, and they are the same
 *
 * Usage
 *   totals of 10 and 5 in two events: there 15, here what the last one says, since providers repeat themselves
 *                                                               | middleware/proxy > is counted once, however often the provider says so far
 *   an event cut in two by the network                          | middleware/proxy > is read whole when its event comes in pieces
 *   nothing in, 75 out: counts                                  | here > nothing in and 75 out counts as 75
 *   a total of 100 alone: there 100, here counted by ourselves, since it does not say what is to be paid at which price
 *                                                               | here > a total alone is counted anew, and is not zero
 *   usage of the Responses API                                  | dialects/usage > a response
 *
 * Prices (in 0.01, out 0.02 a token)
 *   100 and 50: 2; with audio and cache 1.721; with reasoning 4.9; with predictions 3.2
 *                                                               | metering/usage-prices > audio and cache
 *                                                               | metering/usage-prices > predictions
 *   more audio than prompt: no text                             | metering/usage-prices > more audio than prompt: the total stands
 *   above 200,000: only what is above; here where `tiersApplyTo: excess` says so, else all of it, as providers bill
 *                                                               | metering/usage-prices > a third of the prompt is above
 *                                                               | metering/usage-prices > so is a third of each class
 *                                                               | metering/usage-prices > output is counted by itself
 *                                                               | metering/usage-prices > below there is no tier
 *   an image in one price or by its tokens                      | config/price-file > has a price for each class
 *
 * Configuration
 *   loads unchanged; `warning` is no level; default_models_rpm 0 is unlimited; base_url without /v1; numbers from variables
 *                                                               | config/auto-ai-router > becomes our options
 *                                                               | config/auto-ai-router > logging_level: warning, which it refused too
 *                                                               | config/auto-ai-router > a trailing /v1 is cut
 *                                                               | config/auto-ai-router > numbers and switches are what their text spells
 *   and serves                                                  | here > an existing config.yaml and models.yaml serve as they are
 *
 * Its faults
 *   a table entry without rpm blocked its model                 | e2e/send-limits > a table entry without numbers blocks nothing
 *   tokens checked only afterwards: parallel ones all passed    | e2e/send-limits > are held before the answer and corrected after it
 *   streamed tokens booked under the provider's name
 *     | e2e/send-limits > a streamed answer's tokens are booked under the client's name of the model
 *   Anthropic's cached tokens, taken from an input that is without them; those that were stored, for free
 *                                                               | dialects/usage > a message with a cache, whose classes are disjoint already
 *   a model's name cut at its dot, and so without a price       | config/price-file > has a price at each provider, which is nobody else's
 *   answers of fallbacks cost nothing                           | e2e/settlement > a retried failure charges only the attempt that served
 *   the list of models, read anew, wiped the windows            | here > reading the model lists anew forgets nothing that went out
 *   retries kept their slots                                    | e2e/send-limits > a retried attempt gives its slot back, on both levels
 *   a retry spoke another provider's language                   | e2e/selection > provider:model goes to that provider's accounts only
 *   a fallback was asked by another account's name of the model | e2e/selection > a retry asks the next account by that account's own name
 *   one provider-side name for all accounts                     | e2e/selection > each account may know the model by a name of its own
 *   renaming by text search
 *     | e2e/selection > only the model's own field is renamed, wherever and however it stands
 *   strikes of a month added up                                 | e2e/credential-bans > only what lies within the window
 *   no way out of a ban but a restart                           | e2e/credential-bans > lift the ban of one model
 *   no probe                                                    | e2e/circuit-breaker > opens after five failures in a row, for thirty seconds
 *   a rule without attempts banned at the first error           | config/auto-ai-router > a rule without attempts has the common number
 *   a rule for a code that is not listed never fired            | pool/bans > obeys a rule whose code stands in no list
 *   one banned model made /health say 503                       | e2e/health-endpoint > one banned model does not take an account out
 *   two replicas doubled all limits                             | e2e/send-limits > keep one account's limit together
 *                                                               | e2e/send-limits > as processes of their own, too
 *   models with other accounts skewed the turns                 | e2e/selection > sets that overlap keep turns of their own
 *   counters full of candidates that never were any             | here > an account that does not offer the model is no rejection
 *   the gauge of bans never moved                               | e2e/credential-bans > see it in the metrics, also when it is over
 *   a client that left kept its provider working
 *     | middleware/proxy > a client that leaves a whole answer %s stops the upstream at once
 *   long whole answers cut; timeouts told as 408                | middleware/proxy-lease > a whole answer has all of the request's time
 *                                                               | e2e/settlement > a timeout of a whole answer
 *   streams cut after a minute                                  | middleware/proxy-lease > a stream may go on for as long as something comes
 *   bodies read without a bound                                 | e2e/bad-input > a body over the limit
 *   cookies and keys crossed in both directions                 | middleware/proxy-headers > the client sees none of the provider's cookies
 *   a key in logs, rows or answers                              | e2e/metrics > no exposition of anybody's key, name or text
 *                                                               | e2e/bad-input > a provider that repeats our key in its error is redacted
 *   a stored digest was accepted as a key                       | here > a key's digest is no key
 *   a key's list of models was not enforced                     | e2e/model-lists > is only what a key may use
 *                                                               | middleware/auth > %j may not use %s
 *   a store that failed during a request: an empty 200
 *     | e2e/client-bans > is not banned for anything that happened while our own store was away
 *   failed writes were lost or held everybody up                | limits/holds > settlements that wait are at most 100,000
 *
 * Not here: its LiteLLM database and login (our own ledger and keys stand in for them), its price file, and the dialects of Anthropic, Gemini,
 * Bedrock and of the Responses API, which are refused as not yet available.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { chat, KEY } from "../helpers/app.ts";
import { endChildren, folder, serving } from "../helpers/child.ts";
import { accounts, asking, endAccounts, keyOf, MODEL, PATIENTLY, provider, quiet } from "./accounts-kit.ts";

afterEach(endAccounts);

test("the table above names tests that exist", () => {
  const own = readFileSync(import.meta.filename, "utf8");
  const [table = "", code = ""] = own.split("*/\n");
  const missing: string[] = [];
  let count = 0;
  for (const [, file = "", title = ""] of table.matchAll(/\| (\S+) > (.+)$/gm)) {
    const text = file === "here" ? code : readFileSync(new URL(`../${file}.test.ts`, import.meta.url), "utf8");
    count += 1;
    if (!text.includes(title)) missing.push(`${file} > ${title}`);
  }
  expect(missing).toEqual([]);
  expect(count).toBeGreaterThan(60);
});

const busy = { status: 429, headers: { "retry-after": "60" } };

describe("numbers", () => {
  test("the third 401 of three bans", async () => {
    const kit = await accounts(["a"], { fail2ban: { maxAttempts: 3 } });
    kit.answer("a", { status: 401 });
    const statuses: number[] = [];
    for (let i = 0; i < 4; i += 1) statuses.push((await kit.ask()).status);
    expect(statuses).toEqual([401, 401, 401, 503]);
    expect(kit.guard.admin.bans()).toMatchObject([{ credential: "a", model: MODEL, code: 401, until: null }]);
  });

  test("a 500 that calls itself a stream goes on to the next account", async () => {
    const kit = await accounts(["a", "b"]);
    kit.answer("a", { status: 500, headers: { "content-type": "text/event-stream" }, body: 'data: {"error":{"message":"down"}}\n\n' });
    const { status, text } = await kit.ask({ stream: true });
    expect([status, text.includes("[DONE]"), text.includes("down")]).toEqual([200, true, false]);
    expect(kit.asked()).toBe("ab");
  });

  test("of two fallbacks the second is asked only when the first cannot", async () => {
    const kit = await accounts([{ name: "a" }, { name: "x", isFallback: true }, { name: "y", isFallback: true }]);
    kit.answer("a", busy);
    expect((await kit.ask()).status).toBe(200);
    expect(kit.asked()).toBe("ax");
    kit.forget();
    kit.answer("x", busy);
    kit.answer("y", busy);
    // It is y's turn, and then x's.
    expect((await kit.ask()).status).toBe(429);
    expect(kit.asked()).toBe("yx");
  });

  test("nothing in and 75 out counts as 75", async () => {
    const kit = await accounts([{ name: "a", tpm: 1_000 }]);
    kit.answer("a", { usage: { prompt_tokens: 0, completion_tokens: 75, total_tokens: 75 } });
    for (const stream of [false, true]) await kit.ask({ ...asking(100), stream });
    await quiet(kit.guard);
    expect(kit.credential("a").tpm).toEqual({ used: 150, limit: 1_000 });
  });

  test("a total alone is counted anew, and is not zero", async () => {
    const kit = await accounts([{ name: "a", tpm: 1_000 }]);
    kit.answer("a", { text: ["one", " two", " three"], usage: { total_tokens: 100 } });
    const response = await chat(kit.gateway.url, asking(100));
    await response.text();
    await quiet(kit.guard);
    const row = await kit.guard.ledger.get(response.headers.get("x-request-id") as string);
    expect(row).toMatchObject({ provenance: "counted" });
    const { inputTokens = 0, outputTokens = 0 } = row?.usage ?? {};
    expect([inputTokens > 0, outputTokens > 0]).toEqual([true, true]);
    expect(kit.credential("a").tpm.used).toBe(inputTokens + outputTokens);
  });
});

describe("faults", () => {
  test("reading the model lists anew forgets nothing that went out", async () => {
    const kit = await accounts([{ name: "a", rpm: 3 }], { models: [{ name: MODEL, rpm: 2 }] });
    kit.list("a", [MODEL, "gpt-4o"]);
    const lists = (): Promise<Response> => fetch(`${kit.gateway.url}/llm/v1/models`, { headers: { authorization: `Bearer ${KEY}` } });
    await (await lists()).text();
    kit.clock.advance(299_000);
    expect(await kit.several(3)).toBe("aa");
    kit.list("a", [MODEL, "gpt-4o", "new"]);
    kit.clock.advance(2_000);
    await expect.poll(async () => (await (await lists()).text()).includes('"new"'), PATIENTLY).toBe(true);
    expect(kit.listed("a")).toBe(2);
    // Not what operators see of it either.
    expect(kit.credential("a")).toMatchObject({ rpm: { used: 2 }, models: [{ name: MODEL, rpm: { used: 2, limit: 2 } }] });
    expect(await kit.ask()).toMatchObject({ status: 429 });
    expect(await kit.several(2, { model: "gpt-4o" })).toBe("a");
  });

  test("an account that does not offer the model is no rejection", async () => {
    const kit = await accounts([{ name: "a" }, { name: "b", models: ["gpt-4o"] }, { name: "x", isFallback: true }], {
      monitoring: { prometheusEnabled: true },
    });
    expect(await kit.several(5)).toBe("aaaaa");
    expect(await kit.metric("selection_rejected_total")).toEqual({});
  });

  test("a key's digest is no key", async () => {
    const kit = await accounts(["a"]);
    for (const encoding of ["hex", "base64", "base64url"] as const) {
      const digest = createHash("sha256").update(KEY).digest(encoding);
      expect((await kit.ask({}, { key: digest })).status).toBe(401);
    }
    expect(kit.asked()).toBe("");
  });
});

describe("its files", () => {
  test("an existing config.yaml and models.yaml serve as they are", async () => {
    const kit = await accounts(["m", "s"]);
    const other = await provider();
    const place = folder();
    place.write(
      "config.yaml",
      `
server:
  port: 8080
  max_body_size_mb: 10
  request_timeout: 30s
  write_timeout: 60s
  logging_level: info
  master_key: os.environ/ROUTER_MASTER_KEY
  default_models_rpm: 0
fail2ban:
  max_attempts: 3
  ban_duration: permanent
  error_codes: [401, 403, 429, 500, 502, 503, 504]
  error_code_rules:
    - { code: 500, max_attempts: 1, ban_duration: 1h }
monitoring: { prometheus_enabled: true, log_errors: false, errors_log_path: "" }
credentials:
  - { name: main, type: openai, api_key: ${keyOf("m")}, base_url: "${kit.providers["m"]?.url}/v1", rpm: 60, tpm: 0 }
  - { name: second, type: openai, api_key: ${keyOf("s")}, base_url: "${kit.providers["s"]?.url}", rpm: os.environ/SECOND_RPM }
  - { name: router, type: proxy, base_url: "${other.url}", is_fallback: true }
models:
  - { name: gpt-4o, credential: main, model: gpt-4o-2024-11-20, rpm: 1 }
  - { name: gpt-4o, credential: second }
  - { name: gpt-4o-mini }
model_alias: { fast: gpt-4o-mini }
litellm_db: { enabled: false }
`,
    );
    place.write("models.yaml", "models:\n    - name: gpt-4\n      rpm: 2\n    - name: gpt-4o\n      rpm: 1\n");
    const key = "sk-router-6f1c0b7e9a2d";
    try {
      const { url, child } = await serving(["--host", "127.0.0.1", "--port", "0"], {
        cwd: place.path,
        env: { ROUTER_MASTER_KEY: key, SECOND_RPM: "-1", QUOTAGUARD_STORE_URL: "memory", QUOTAGUARD_LEDGER_URL: "memory" },
      });
      const post = async (model: string, bearer = key): Promise<number> => {
        const init = { method: "POST", headers: { authorization: `Bearer ${bearer}` }, body: JSON.stringify({ model, messages: [] }) };
        const response = await fetch(`${url}/v1/chat/completions`, init);
        await response.text();
        return response.status;
      };
      const several = async (count: number, model: string): Promise<string> => {
        kit.forget();
        for (let i = 0; i < count; i += 1) await post(model);
        return kit.asked();
      };
      expect(await post("gpt-4o", "wrong")).toBe(401);
      // A model without rpm is not blocked, and an alias is the model.
      expect(await several(6, "gpt-4o-mini")).toBe("msmsms");
      expect(await several(4, "fast")).toBe("msms");
      // One a minute on one account, under that account's own name; unlimited on the other.
      expect(counts(await several(5, "gpt-4o"))).toEqual({ m: 1, s: 4 });
      const names = kit.providers["m"]?.log.map(({ body }) => (JSON.parse(String(body)) as { model: string }).model);
      expect(names).toContain("gpt-4o-2024-11-20");
      expect(names).not.toContain("gpt-4o");
      // From models.yaml: two a minute on each account, the fallback included.
      expect(counts(await several(7, "gpt-4"))).toEqual({ m: 2, s: 2 });
      expect(other.log).toHaveLength(2);
      // A proxy without a key gets none, the client's own least of all.
      expect(other.log[0]?.headers).not.toHaveProperty("authorization");
      // The first 500 bans here, so the fallback serves; the next one asks nobody else.
      for (const name of ["m", "s"]) kit.answer(name, { status: 500 });
      expect(counts(await several(3, "gpt-4o-mini"))).toEqual({ m: 1, s: 1 });
      expect(other.log).toHaveLength(5);
      const health = (await (await fetch(`${url}/health`)).json()) as { credentials: Record<string, { models?: Record<string, { state: string }> }> };
      expect(health.credentials["main"]?.models?.["gpt-4o-mini"]?.state).toBe("banned");
      expect(await (await fetch(`${url}/metrics`)).text()).toContain("quotaguard_bans_total 2");
      child.kill("SIGTERM");
      const { code, stderr } = await child.ended;
      expect(code).toBe(0);
      expect(stderr).toContain("write_timeout");
      for (const secret of [key, keyOf("m"), keyOf("s")]) expect(stderr).not.toContain(secret);
    } finally {
      await endChildren();
      place.remove();
    }
  });
});

const counts = (text: string): Readonly<Record<string, number>> =>
  Object.fromEntries([...Map.groupBy(text, (name) => name)].map(([name, those]) => [name, those.length]));
