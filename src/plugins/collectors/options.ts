/** The options of the collectors: the same in code, in a file and for the whole configuration's check. */
import { z } from "zod";
import { DURATION_EXPECTED, durationOf, durationProblem } from "../../core/duration.ts";
import { Secret } from "../../core/secret.ts";
import { COLLECTOR_IDS, type CollectorId } from "./collector.ts";

const MOST_DURATION_MS = 24 * 60 * 60_000;

const duration = (minMs: number, maxMs = MOST_DURATION_MS) =>
  z.union([z.number(), z.string()], { error: DURATION_EXPECTED }).transform((value, ctx) => {
    const ms = durationOf(value);
    const problem = durationProblem(ms, minMs, maxMs);
    if (problem !== null) ctx.addIssue({ code: "custom", message: problem });
    return ms;
  });

/** Named by the operator, so it may be a private one. */
const endpoint = () => {
  const expected = "expected a URL such as https://relay.example.com or http://127.0.0.1:8080, without user, query and fragment";
  return z.string({ error: expected }).transform((text, ctx) => {
    const url = URL.canParse(text) ? new URL(text) : null;
    // What is written out is what paths are put behind: `https://a.example/?` would swallow them.
    const isPlain =
      url &&
      !/[?#\\\s]/.test(text) &&
      /^https?:$/.test(url.protocol) &&
      url.username === "" &&
      url.password === "" &&
      url.search === "" &&
      url.hash === "";
    if (!isPlain) ctx.addIssue({ code: "custom", message: expected });
    return text.replace(/\/+$/, "");
  });
};

const endpoints = Object.fromEntries(COLLECTOR_IDS.map((id) => [id, endpoint().optional()])) as Readonly<
  Record<CollectorId, z.ZodOptional<ReturnType<typeof endpoint>>>
>;

const csrf = () =>
  z.union([z.string(), z.instanceof(Secret)], { error: "expected text" }).transform((value, ctx) => {
    const wrapped = typeof value === "string" ? new Secret(value) : value;
    if (!/^[\x21-\x7e]{1,512}$/.test(wrapped.reveal())) ctx.addIssue({ code: "custom", message: "must be printable ASCII without spaces" });
    return wrapped;
  });

/** @default all defaults */
export const collectorsSchema = z.strictObject({
  /** Between two questions about one account. */
  interval: duration(1_000).default(60_000),
  /** Questions at one time. */
  workers: z.number().int().min(1).max(64).default(8),
  /** A pause of up to so long before each question. */
  jitter: duration(0, 60_000).default(250),
  /** More often when little is left, less often when much is. */
  adaptive: z.boolean().default(true),
  /** Until a provider has answered. */
  timeout: duration(100, 300_000).default(10_000),
  /** Other base URLs of what is asked, by collector. */
  endpoints: z.strictObject(endpoints).prefault({}),
  /** The server of Antigravity's app on this machine. */
  antigravity: z
    .strictObject({
      /** @default found by the app's processes */
      port: z.number().int().min(1).max(65_535).nullable().default(null),
      /** @default found by the app's processes */
      csrf: csrf().nullable().default(null),
      /** A command that starts the app when it does not run. @default nothing is started */
      startCmd: z.string().min(1, "must not be empty").max(4_096).nullable().default(null),
      startTimeout: duration(100, 300_000).default(15_000),
    })
    .prefault({}),
});

/** As they are written. */
export type CollectorsOptions = z.input<typeof collectorsSchema>;

export type ResolvedCollectors = z.output<typeof collectorsSchema>;
