// Bans by address behind proxies: whoever forges X-Forwarded-For neither escapes a ban nor puts one on a neighbour, unless the host's setting says so.
import { describe, expect, test } from "vitest";
import { chat, KEY } from "../helpers/app.ts";
import { hostApp, type ListeningHost } from "./host-kit.ts";

const ATTACKER = "203.0.113.5";
const NEIGHBOUR = "203.0.113.6";
const MOST = 3;

const behind = (setting: unknown): Promise<ListeningHost> =>
  hostApp(
    (app, { gateway }) => {
      if (setting !== undefined) app.set("trust proxy", setting);
      app.use("/llm", gateway);
    },
    { fail2ban: { clients: { maxAttempts: MOST, window: "1m", banDuration: "15m" } } },
  );

/** The proxy in front writes the address that it saw behind whatever the client has sent. */
async function guess({ url }: ListeningHost, seen: string, forged?: string): Promise<number> {
  const headers = { "x-forwarded-for": forged === undefined ? seen : `${forged}, ${seen}` };
  return (await chat(url, {}, { key: "qg-a-guess-at-somebody", headers })).status;
}

describe.each<[string, unknown]>([
  ["how many there are", 1],
  ["their network's name", "loopback"],
  ["their addresses", ["127.0.0.1", "10.0.0.0/8"]],
  ["a function that knows them", (address: string) => address === "127.0.0.1"],
])("`trust proxy` is %s", (_name, setting) => {
  test("an attacker is banned whatever it forges, and a neighbour is not", async () => {
    const host = await behind(setting);
    const statuses: number[] = [];
    for (let i = 0; i < MOST + 1; i += 1) statuses.push(await guess(host, ATTACKER, `198.51.100.${i}`));
    expect(statuses).toEqual([401, 401, 401, 403]);
    // Forging a neighbour's address bans nobody.
    expect(await guess(host, ATTACKER, NEIGHBOUR)).toBe(403);
    expect(await guess(host, NEIGHBOUR)).toBe(401);
    expect((await chat(host.url, {}, { headers: { "x-forwarded-for": NEIGHBOUR } })).status).toBe(200);
    expect(host.codes()).toEqual([]);
    expect(await host.settled()).toEqual(expect.arrayContaining(["settled"]));
  });
});

describe.each<[string, unknown]>([
  ["off", undefined],
  ["true", true],
  ["a function that agrees to everything", () => true],
  ["a list without the proxy that is there", "10.0.0.0/8"],
])("`trust proxy` is %s", (_name, setting) => {
  test("bans go by the connection, forging changes nothing, and the host is told once what to set", async () => {
    const host = await behind(setting);
    const statuses: number[] = [];
    for (let i = 0; i < MOST + 1; i += 1) statuses.push(await guess(host, `198.51.100.${i}`));
    expect(statuses).toEqual([401, 401, 401, 403]);
    expect(await guess(host, NEIGHBOUR)).toBe(403);
    // A valid key still passes: one guest cannot lock out an office.
    expect((await chat(host.url, {}, { key: KEY, headers: { "x-forwarded-for": NEIGHBOUR } })).status).toBe(200);
    expect(host.codes()).toEqual(["QG_TRUST_PROXY"]);
  });
});
