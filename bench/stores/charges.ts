/** What one request charges: five token buckets, or one limit of each kind. Keys are written as the gateway writes them. */
import type { Charge, Rule } from "quotaguard";
import { calendarBounds } from "../../src/limits/calendar.ts";
import { PlannedCharge } from "../../src/limits/planned-charge.ts";

export const USERS = 4_096;
const TEAMS = 64;
const ROLES = 16;
const ROLE_GROUPS = 4;

/** `buckets`: user, role, rolegroup, team, global. `mixed`: two buckets, a day in USD, a window of 60 cells and a concurrency. */
export type Shape = "buckets" | "mixed";

/** Never empty in a run and never full again: each charge does all the arithmetic, none is refused, and no counter lapses. */
const bucket: Rule = { kind: "bucket", capacity: 1e15, n: 1, d: 100 };
const day: Rule = { kind: "calendar", limit: 1e15, bounds: calendarBounds("day", "UTC", Date.now()) };
/** So short that all its cells fill within a measured interval. */
const window: Rule = { kind: "sliding", limit: 1e15, perMs: 300, cellMs: 5 };
const places: Rule = { kind: "concurrency", limit: 1e9 };

export const HELD_TOKENS = 700;
/** What a settle puts in their place. */
export const ACTUAL = { tokens: 340, usd: 1_200_000 };

/** The counters of a user, user first. */
export const keysOf = (user: number): readonly string[] => [
  `user-tokens:u${user}`,
  `role-tokens:r${user % ROLES}`,
  `rolegroup-tokens:g${user % ROLE_GROUPS}`,
  `team-tokens:t${user % TEAMS}`,
  "global-tokens:all",
];

const tokens = (key: string, amount: number): Charge => new PlannedCharge({ key: `b:${key}`, rule: bucket, unit: "tokens", amount, enforce: true });

const SHAPES: Readonly<Record<Shape, (user: number, amount: number) => readonly Charge[]>> = {
  buckets: (user, amount) => keysOf(user).map((key) => tokens(key, amount)),
  mixed: (user, amount) => [
    tokens(`mixed-user:u${user}`, amount),
    tokens(`mixed-team:t${user % TEAMS}`, amount),
    { key: `kday.UTC:mixed-usd:t${user % TEAMS}`, rule: day, unit: "usd", amount: 2_500_000, enforce: true },
    { key: `w300.60:mixed-requests:t${user % TEAMS}`, rule: window, unit: "requests", amount: 1, enforce: true },
    { key: `c:mixed-places:u${user}`, rule: places, unit: "concurrent", amount: 1, enforce: true },
  ],
};

/** The charges of one request, made anew, as the gateway does when an amount differs from the last one. */
export const chargesOf = (shape: Shape, user: number, amount: number): readonly Charge[] => SHAPES[shape](user, amount);

/** The charges of each user, to be used again and again, as the gateway does while nothing in them changes. */
export const preparedCharges = (shape: Shape): readonly (readonly Charge[])[] =>
  Array.from({ length: USERS }, (_, user) => chargesOf(shape, user, HELD_TOKENS));
