import { generateKeyPairSync, verify } from "node:crypto";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { Credential } from "../../../src/core/credential.ts";
import { redacted } from "../../../src/upstream/redacted.ts";
import { asked, configured, scripted, type Seen } from "./kit.ts";

const upstream = scripted();
const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const pkcs8 = privateKey.export({ type: "pkcs8", format: "pem" }) as string;
const pkcs1 = privateKey.export({ type: "pkcs1", format: "pem" }) as string;

const keyOf = (more: Readonly<Record<string, unknown>> = {}) => ({
  type: "service_account",
  project_id: "proj-1",
  private_key_id: "kid-1",
  private_key: pkcs8,
  client_email: "gw@proj-1.iam.gserviceaccount.test",
  client_id: "1",
  token_uri: `${upstream.url}/token`,
  ...more,
});

const account = (more: Readonly<Record<string, unknown>> = {}): Credential =>
  configured({ provider: "vertex-ai", baseUrl: upstream.url, serviceAccount: keyOf(), ...more });

/** Issues `t-1`, `t-2` … for an hour; `refuses` answers 401 to the tokens it names. */
function issuing(refuses: readonly string[] = []): void {
  let count = 0;
  upstream.answers(({ url, headers }, res) => {
    if (url === "/token") res.end(JSON.stringify({ access_token: `t-${(count += 1)}`, expires_in: 3_600, token_type: "Bearer" }));
    else res.writeHead(refuses.includes(String(headers.authorization).slice(7)) ? 401 : 200).end("{}");
  });
}

const tokensSent = (): readonly unknown[] => upstream.seen.filter(({ url }) => url !== "/token").map(({ headers }) => headers.authorization);
const asksForToken = (): readonly Seen[] => upstream.seen.filter(({ url }) => url === "/token");

test("a service account's signature is exchanged for a token, which goes to the project's own path", async () => {
  issuing();
  const credential = account({ location: "europe-west4" });
  await asked(upstream, credential, { model: "gemini-2.5-pro" });
  await asked(upstream, credential, { model: "gemini-2.5-pro", stream: true });
  expect(upstream.seen.map(({ url }) => url)).toEqual([
    "/token",
    "/v1/projects/proj-1/locations/europe-west4/publishers/google/models/gemini-2.5-pro:generateContent",
    "/v1/projects/proj-1/locations/europe-west4/publishers/google/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
  ]);
  expect(tokensSent()).toEqual(["Bearer t-1", "Bearer t-1"]);
  const form = new URLSearchParams(String(upstream.seen[0]?.body?.text));
  expect(form.get("grant_type")).toBe("urn:ietf:params:oauth:grant-type:jwt-bearer");
  const [head = "", claims = "", signature = ""] = (form.get("assertion") ?? "").split(".");
  const read = (part: string): unknown => JSON.parse(Buffer.from(part, "base64url").toString());
  expect(read(head)).toEqual({ alg: "RS256", typ: "JWT", kid: "kid-1" });
  const iat = Math.floor(upstream.clock.now() / 1_000);
  expect(read(claims)).toEqual({
    iss: "gw@proj-1.iam.gserviceaccount.test",
    scope: "https://www.googleapis.com/auth/cloud-platform",
    aud: `${upstream.url}/token`,
    iat,
    exp: iat + 3_600,
  });
  expect(verify("RSA-SHA256", Buffer.from(`${head}.${claims}`), publicKey, Buffer.from(signature, "base64url"))).toBe(true);
});

test("many requests ask for one token; it is kept until five minutes before its end", async () => {
  issuing();
  const credential = account();
  await Promise.all(Array.from({ length: 8 }, () => asked(upstream, credential)));
  expect(asksForToken()).toHaveLength(1);
  upstream.clock.advance(55 * 60_000 - 1);
  await asked(upstream, credential);
  expect(asksForToken()).toHaveLength(1);
  upstream.clock.advance(1);
  await asked(upstream, credential);
  expect(tokensSent().at(-1)).toBe("Bearer t-2");
});

test("a kept token that is refused is replaced once, a new one is believed to be refused", async () => {
  issuing(["t-1", "t-3", "t-4"]);
  const credential = account();
  expect((await asked(upstream, credential)).status).toBe(401);
  expect((await asked(upstream, credential)).status).toBe(200);
  expect(tokensSent()).toEqual(["Bearer t-1", "Bearer t-1", "Bearer t-2"]);
});

test("while no newer one can be had, one that is still good is used", async () => {
  issuing();
  const credential = account();
  await asked(upstream, credential);
  upstream.clock.advance(56 * 60_000);
  upstream.answers(({ url }, res) => void res.writeHead(url === "/token" ? 503 : 200).end("{}"));
  expect((await asked(upstream, credential)).status).toBe(200);
  expect(tokensSent()).toEqual(["Bearer t-1"]);
  upstream.clock.advance(5 * 60_000);
  await expect(asked(upstream, credential)).rejects.toMatchObject({ code: "upstream_protocol" });
});

test("an account that is not accepted is told as a refusal of the account, without the issuer's words", async () => {
  upstream.answers((_seen, res) => res.writeHead(400, { "content-type": "application/json" }).end('{"error":"invalid_grant"}'));
  expect(await asked(upstream, account())).toEqual({ status: 401, text: "" });
});

test.each(["{}", "[]", "no", '{"access_token":1}', '{"access_token":""}', '{"access_token":"t","expires_in":-1}', `{"x":"${"y".repeat(300_000)}"}`])(
  "an issuer that answers %.40s issued nothing",
  async (answer) => {
    upstream.answers((_seen, res) => res.end(answer));
    await expect(asked(upstream, account())).rejects.toMatchObject({ code: "upstream_protocol" });
  },
);

test("an issuer that does not answer is not waited for longer than 15 s", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  upstream.answers(() => resolve());
  const asking = asked(upstream, account());
  await promise;
  upstream.clock.advance(15_000);
  await expect(asking).rejects.toMatchObject({ code: "upstream_timeout" });
});

test("an issued token is taken out of what a client is told", async () => {
  issuing();
  const credential = account();
  await asked(upstream, credential);
  expect(redacted(Buffer.from("bad token t-1"), credential).toString()).toBe("bad token [redacted]");
});

test.each([
  ["global", { location: "global" }, "https://aiplatform.googleapis.com"],
  ["a region", { location: "us-east5" }, "https://us-east5-aiplatform.googleapis.com"],
  ["nothing", {}, "https://us-central1-aiplatform.googleapis.com"],
])("the host of %s", (_what, more, url) => {
  expect(configured({ provider: "vertex-ai", serviceAccount: keyOf(), ...more }).origin).toBe(url);
});

test("what is missing is named, and what would do", () => {
  const of = (more: Readonly<Record<string, unknown>>) => () => configured({ provider: "vertex-ai", ...more });
  expect(of({})).toThrow("credentials[0].serviceAccount: is required for the provider vertex-ai (or apiKey)");
  expect(of({ apiKey: "ya29.t" })).toThrow("credentials[0].project: is required (or serviceAccount) with an access token");
  expect(of({ apiKey: "AIza-k", location: "global" })).toThrow(
    "credentials[0].project: is required (or serviceAccount) with location: express mode has none",
  );
  expect(of({ apiKey: "AIza-k" })).not.toThrow();
  expect(of({ apiKey: "ya29.t", project: "p", location: "global" })).not.toThrow();
});

test("express mode: a key and no project; a token of Google's own goes as one", async () => {
  issuing();
  await asked(upstream, configured({ provider: "vertex-ai", apiKey: "AQ.k", baseUrl: upstream.url }), { model: "m" });
  await asked(upstream, configured({ provider: "vertex-ai", apiKey: "ya29.t", project: "p2", location: "global", baseUrl: upstream.url }), {
    model: "m",
  });
  expect(upstream.seen.map(({ url, headers }) => [url, headers["x-goog-api-key"], headers.authorization])).toEqual([
    ["/v1/publishers/google/models/m:generateContent", "AQ.k", undefined],
    ["/v1/projects/p2/locations/global/publishers/google/models/m:generateContent", undefined, "Bearer ya29.t"],
  ]);
});

test.each([
  ["PKCS#8", pkcs8],
  ["PKCS#1", pkcs1],
  ["Windows' line ends", pkcs8.replaceAll("\n", "\r\n")],
  ["escaped line ends", pkcs8.replaceAll("\n", "\\n")],
  ["no line ends", pkcs8.replaceAll("\n", " ")],
])("a private key with %s", (_what, pem) => {
  const made = account({ serviceAccount: JSON.stringify(keyOf({ private_key: pem })) });
  expect(made.serviceAccount?.privateKey.reveal()).toBe(pkcs8);
});

test("a key as a file", () => {
  const path = join(mkdtempSync(join(tmpdir(), "quotaguard-key-")), "key.json");
  writeFileSync(path, JSON.stringify(keyOf()));
  expect(account({ serviceAccount: path }).serviceAccount).toMatchObject({ projectId: "proj-1", privateKeyId: "kid-1" });
});

test.each<[string, () => unknown, string]>([
  ["none", () => undefined, "serviceAccount: is required for the provider vertex-ai (or apiKey)"],
  ["no file", () => "/nonexistent/key.json", "its file cannot be read (ENOENT)"],
  ["no JSON", () => "{canary", "is no JSON object"],
  ["another kind", () => keyOf({ type: "authorized_user" }), 'its "type" must be service_account'],
  ["no mail", () => keyOf({ client_email: 5 }), "lacks client_email"],
  ["no PEM", () => keyOf({ private_key: "canary" }), "private_key is no PEM"],
  [
    "a broken PEM",
    () => keyOf({ private_key: "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----" }),
    "private_key is no usable RSA key",
  ],
  ["a metadata address", () => keyOf({ token_uri: "http://169.254.169.254/token" }), "metadata service"],
])("%s is refused, and never repeated", (_what, written, message) => {
  const wrong = (): unknown => configured({ provider: "vertex-ai", serviceAccount: written() });
  expect(wrong).toThrow(message);
  expect(wrong).not.toThrow(/canary/);
});
