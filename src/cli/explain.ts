/** `quotaguard explain`: why a request was decided as it was, and what would become of a call. */
import { readFileSync } from "node:fs";
import { CommandError, EXIT_USAGE, painter, paragraph, print, printable, table, type CommonFlags } from "./output.ts";
import { operate } from "./operator.ts";
import { aheadText, lengthText } from "./when.ts";
import type { ExplainedCall, ExplainedRequest } from "../core/explain.ts";

export interface ExplainFlags extends CommonFlags {
  readonly key?: string;
  readonly scope?: readonly string[];
  readonly model?: string;
  readonly maxTokens?: string;
  readonly text?: string;
  readonly body?: string;
  readonly stream?: boolean;
  readonly dialect?: string;
}

/** As management tells it: times are ISO dates. */
type Told<T> = { readonly [K in keyof T]: K extends "at" | "until" | "resetsAt" ? (T[K] extends number ? string : string | null) : Told<T[K]> };

/** Returns the exit code: 0 also for what is refused. */
export async function explain(id: string | undefined, flags: ExplainFlags, nowMs: number): Promise<number> {
  const question = id === undefined ? callOf(flags) : requestOf(id, flags);
  return operate(flags, id === undefined ? "store" : "ledger", async ({ ask, place }) => {
    const answer = await ask("POST", "/explain", question);
    if (flags.json) print(JSON.stringify({ from: place, ...answer }));
    else if (answer.kind === "request") printRequest(flags, answer as unknown as Told<ExplainedRequest>);
    else printCall(flags, answer as unknown as Told<ExplainedCall>, nowMs);
    return 0;
  });
}

const CALL_FLAGS = ["key", "scope", "model", "maxTokens", "text", "body", "stream", "dialect"] as const;

function requestOf(id: string, flags: ExplainFlags): object {
  const given = CALL_FLAGS.find((name) => flags[name] !== undefined);
  if (given === undefined) return { id };
  throw new CommandError("explain: name a past request by its id, or describe a call by --model and the other options, not both", EXIT_USAGE);
}

function callOf({ key, scope, model, maxTokens, text, body, stream, dialect }: ExplainFlags): object {
  const whole = body === undefined ? undefined : bodyFrom(body);
  if (model === undefined && whole?.model === undefined)
    throw new CommandError("explain: give the x-request-id of a past request, or --model for a call to come", EXIT_USAGE);
  const scopes = scope === undefined ? undefined : Object.fromEntries(scope.map(pairOf));
  const asked = { key, scopes, model, maxTokens: maxTokens === undefined ? undefined : tokensOf(maxTokens), body: whole, stream, dialect };
  const messages = text === undefined ? {} : { messages: dialect === "gemini" ? [{ parts: [{ text }] }] : [{ role: "user", content: text }] };
  return { ...Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== undefined)), ...messages };
}

function pairOf(pair: string): readonly [string, string] {
  const [, scope, value] = /^([^=]+)=(.+)$/.exec(pair) ?? [];
  if (scope !== undefined && value !== undefined) return [scope, value];
  throw new CommandError(`--scope ${pair}: expected scope=value, such as --scope user=alice`, EXIT_USAGE);
}

function tokensOf(text: string): number {
  const number = Number(text);
  if (Number.isSafeInteger(number) && number > 0) return number;
  throw new CommandError(`--max-tokens: ${text} is not a whole number above 0`, EXIT_USAGE);
}

function bodyFrom(path: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new CommandError(`--body ${path}: ${error instanceof Error ? error.message : "it cannot be read"}`, EXIT_USAGE);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Readonly<Record<string, unknown>>;
  throw new CommandError(`--body ${path}: expected a JSON object, as a client sends it`, EXIT_USAGE);
}

const AMOUNT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 6 });
const amount = (value: number | null): string => (value === null ? "" : AMOUNT.format(value));
const usd = (value: number | null): string => (value === null ? "no price" : `${AMOUNT.format(value)} USD`);

type Paint = ReturnType<typeof painter>;
type Outcome = ExplainedCall["outcome"];

function verdict(paint: Paint, { served, status, code, message, retryAfterMs }: Outcome, isOver: boolean): string {
  if (served)
    return `${paint("green", isOver ? "served" : "would be served")} by ${served.credential} (${served.provider}, ${printable(served.model)})`;
  if (code === null) return `${status === 0 ? "open" : status}: ${message ?? ""}`;
  const wait =
    retryAfterMs === null ? (isOver ? "" : "; waiting does not help by itself") : `; Retry-After ${Math.max(1, Math.ceil(retryAfterMs / 1_000))} s`;
  return `${paint("red", isOver ? "refused or failed" : "would be refused")}: ${status} ${code}${wait}${message === null ? "" : `\n${paragraph(printable(message), "  ")}`}`;
}

const scopesText = (scopes: Readonly<Record<string, string>>): string =>
  Object.entries(scopes)
    .map(([scope, value]) => `${scope}=${value}`)
    .join(" ");

/** A head in front of each fact, as wide as the widest. */
function printFacts(paint: Paint, facts: readonly (readonly [string, string])[]): void {
  print(
    table(
      facts.filter(([, text]) => text !== "").map(([name, text]) => [name, text]),
      { paint: (text, _row, column) => (column === 0 ? paint("dim", text) : text) },
    ),
  );
}

function printCall(flags: CommonFlags, { identity, scopes, call, limits, candidates, price, outcome }: Told<ExplainedCall>, nowMs: number): void {
  const paint = painter(flags);
  print(verdict(paint, outcome, false));
  print("");
  const alias = call && call.resolved !== call.model ? `, that is ${printable(call.resolved)}` : "";
  printFacts(paint, [
    [
      "who",
      identity === null
        ? "nobody who may come in"
        : `${identity.key ?? "whoever the app lets in"}${identity.org === null ? "" : ` of ${identity.org}`}`,
    ],
    ["scopes", scopesText(scopes)],
    [
      "model",
      call ? `${printable(call.model)}${alias}${call.sentMaxTokens === null ? "" : `; sent with a cap of ${call.sentMaxTokens} tokens`}` : "",
    ],
    [
      "price",
      price ? `at most ${usd(price.ceilingUsd)}, probably ${usd(price.expectedUsd)}: ${price.inputTokens} tokens in, ${outputText(price)} out` : "",
    ],
  ]);
  if (limits.length > 0) {
    const head = ["limit", "of", "unit", "left", "held", "then", "verdict"];
    const rows = limits.map((limit) => [
      limit.name,
      limit.value,
      limit.unit,
      limit.before === null ? (limit.fits ? "unlimited" : "") : `${amount(limit.before)} of ${amount(limit.limit)}`,
      amount(limit.needed),
      amount(limit.after),
      verdictOf(limit),
    ]);
    print("");
    print(table([head, ...rows], { paint: (text, row) => (row === 0 ? paint("dim", text) : limits[row - 1]?.refuses ? paint("red", text) : text) }));
  }
  if (candidates.length === 0) return;
  const rows = candidates.map((each) => [
    each.place === null ? "" : String(each.place),
    printable(each.credential),
    printable(each.model),
    `${standingOf(each, nowMs)}${each.fallbackFor === null ? (each.isFallback ? ", as a fallback" : "") : `, as a fallback for ${printable(each.fallbackFor)}`}`,
  ]);
  print("");
  print(table([["turn", "credential", "model", "why"], ...rows], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
}

const outputText = ({ expectedOutputTokens, ceilingOutputTokens }: NonNullable<ExplainedCall["price"]>): string =>
  expectedOutputTokens === ceilingOutputTokens ? String(ceilingOutputTokens) : `${expectedOutputTokens} to ${ceilingOutputTokens}`;

function standingOf({ reason, judgement }: Told<ExplainedCall["candidates"][number]>, nowMs: number): string {
  if (reason)
    return `${reason.code}: ${printable(reason.message)}${reason.until === null ? "" : `, ends ${aheadText(Date.parse(reason.until), nowMs)}`}`;
  return judgement ? `${judgement.level}, score ${judgement.score.toFixed(2)}: ${printable(judgement.reason)}` : "may be used";
}

function verdictOf({ fits, needed, refuses, waitMs, mode }: Told<ExplainedCall["limits"][number]>): string {
  if (fits) return "fits";
  if (needed === null) return "not asked";
  const wait = waitMs === null ? "never fits by itself" : `fits in ${lengthText(waitMs)}`;
  return refuses ? `refuses, ${wait}` : mode === "shadow" ? `would refuse, but only watches; ${wait}` : wait;
}

function printRequest(flags: CommonFlags, request: Told<ExplainedRequest>): void {
  const paint = painter(flags);
  const {
    outcome,
    limit,
    attempts,
    identity,
    model,
    scopes,
    at,
    requestId,
    route,
    state,
    billedUsd,
    rawUsd,
    usage,
    latencyMs,
    firstByteMs,
    provenance,
  } = request;
  print(verdict(paint, outcome, true));
  print("");
  const cost = billedUsd === null ? "no price" : rawUsd === billedUsd ? usd(billedUsd) : `${usd(billedUsd)} (${usd(rawUsd)} at cost)`;
  printFacts(paint, [
    ["request", `${printable(requestId)}, ${at}`],
    ["who", `${identity.key ?? "whoever the app lets in"}${identity.org === null ? "" : ` of ${identity.org}`}`],
    ["scopes", scopesText(scopes)],
    ["asked", `${route}${model === null ? "" : `, ${printable(model)}`}`],
    ["limit", limit ?? ""],
    ["state", `${state}, usage ${provenance}`],
    ["cost", `${cost}${usage === null ? "" : `: ${usage.inputTokens} tokens in, ${usage.outputTokens} out`}`],
    ["time", `${Math.round(latencyMs)} ms${firstByteMs === null ? "" : `, first byte after ${Math.round(firstByteMs)} ms`}`],
  ]);
  if (attempts.length === 0) return;
  const rows = attempts.map((each, i) => [
    String(i + 1),
    each.credential,
    printable(each.model),
    each.status === null ? "no answer" : String(each.status),
    each.code ?? "",
  ]);
  print("");
  print(table([["try", "credential", "model", "status", "code"], ...rows], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
}
