/** How one attempt speaks to its provider: what is sent, and how what comes back is read for the caller. */
import type { Call, WireId } from "../../core/call.ts";
import type { Context } from "../../core/context.ts";
import type { AdaptedRequest, Lease, ProviderPaths, ProviderRow } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { Usage } from "../../core/usage.ts";
import type { Codec, ProviderCodec } from "../../dialects/codec.ts";
import type { Dialect, ObserverOptions, StreamObserver } from "../../dialects/dialect.ts";
import { losses } from "../../dialects/losses.ts";
import type { ChatRequest, JsonObject } from "../../dialects/message.ts";
import { reasoningOf, withReasoning } from "../../dialects/model-suffix.ts";
import { firstFault } from "../../dialects/first-fault.ts";
import { translation, type Translation } from "../../dialects/translate.ts";
import { unwrappedObserver } from "../../dialects/unwrapped-observer.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { familyOf } from "../../upstream/family.ts";

export interface WireSettings {
  readonly dialectOf: (call: Call) => Dialect;
  readonly codecOf: (id: WireId) => ProviderCodec;
  /** Unique in this process. */
  readonly nextId: () => string;
  /** Whether an answer without what cannot be expressed is preferred to none. */
  readonly lossy: boolean;
  /** The most that a model writes, tokens; null = not known. */
  readonly maxOutputTokensOf: (model: string) => number | null;
  /** The output cap to send with an attempt; undefined = leave the client's. Absent = what the budgets hold. */
  readonly outputCapOf?: (ctx: Context, call: Call, lease: Lease) => number | undefined;
}

/** A whole answer as the caller gets it. */
export interface WholeAnswer {
  readonly bytes: Buffer;
  /** Null = the provider did not say. */
  readonly usage: Usage | null;
  /** All that was written, for counting where there is no usage. */
  readonly text: string;
}

/** Collects a stream that nothing is forwarded of. */
export type Collector = ReturnType<Translation["collector"]>;

export interface Wire {
  /** Below the credential's base. */
  readonly path: string;
  readonly body: Buffer;
  /** Headers that this provider wants with this request; lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** What of the caller's request the provider does not get. */
  readonly dropped: readonly string[];
  /** The provider's half of a translation; null = it speaks the caller's dialect. */
  readonly translated: ProviderCodec | null;
  /** Null = a whole answer. `forwards` = it goes to the caller as it comes. */
  readonly stream: "forwards" | "collects" | null;
  observer(options: ObserverOptions): StreamObserver;
  /** Only where the stream is collected. */
  collector(options: ObserverOptions): Collector;
  /** Null = it is no answer of the provider's dialect. */
  whole(bytes: Buffer): WholeAnswer | null;
  /** Whether a stream begins with its failure, so that another credential may still take over. */
  opensWith(bytes: Buffer): GuardError | null;
}

const NO_HEADERS = Object.freeze({});
const NOTHING_DROPPED: readonly string[] = Object.freeze([]);

const notOffered = ({ operation }: Call): GuardError =>
  new GuardError("untranslatable", `no provider of this model offers ${operation.replaceAll("_", " ")} in this dialect`, { param: "model" });

/** A name in a path is one part of it, whatever it holds. */
function pathFor(paths: ProviderPaths, { operation }: Call, model: string, streams: boolean): string | undefined {
  const path = (streams && operation === "chat" ? paths.stream : undefined) ?? paths[operation];
  if (path === undefined || !path.includes("{model}")) return path;
  if (/^\.{1,2}$/.test(model)) throw new GuardError("body_invalid", "model must be a name", { param: "model" });
  return path.replace("{model}", () => encodeURIComponent(model.toWellFormed()));
}

/**
 * The wire of an attempt with what it was lent. Throws `untranslatable` when its provider cannot be asked this: it does not offer the operation, or what the
 * caller wants cannot be said in its dialect.
 */
export function wireFor(settings: WireSettings, ctx: Context, call: Call, lease: Lease, row: ProviderRow): Wire {
  const collects = row.streamsOnly === true && call.operation === "chat" && !call.stream;
  const own = row.dialect === call.dialect ? row.paths : row.also?.[call.dialect];
  const ownPath = own && pathFor(own, call, lease.model, call.stream || collects);
  const parts: Parts = { settings, ctx, call, lease, row, collects };
  if (ownPath !== undefined) return ownWire(parts, ownPath);
  const path = row.dialect === call.dialect ? undefined : pathFor(row.paths, call, lease.model, call.stream || collects);
  if (call.operation !== "chat" || path === undefined) throw notOffered(call);
  return translatedWire(parts, path, settings.dialectOf(call).codec, settings.codecOf(row.dialect));
}

interface Parts {
  readonly settings: WireSettings;
  readonly ctx: Context;
  readonly call: Call;
  readonly lease: Lease;
  readonly row: ProviderRow;
  /** The provider only streams, and the caller wants a whole answer. */
  readonly collects: boolean;
}

const streamOf = ({ call, collects }: Parts): Wire["stream"] => (collects ? "collects" : call.stream ? "forwards" : null);

const adaptedOf = ({ ctx, call, lease, collects }: Parts): AdaptedRequest => ({
  credential: lease.credential,
  model: lease.model,
  operation: call.operation,
  stream: call.stream || collects,
  requestId: ctx.id,
});

/** Whether an answer of this type is the stream that was asked for. A translated one may come in any framing; what is plain JSON is none. */
export const isStream = ({ stream, translated }: Pick<Wire, "stream" | "translated">, type: string): boolean =>
  stream !== null && (type.includes("text/event-stream") || (translated !== null && !type.includes("json")));

/** Sends the caller's bytes, and forwards the provider's. */
export function plainWire(dialect: Dialect, call: Call, path: string, body: Buffer): Wire {
  return {
    path,
    body,
    headers: NO_HEADERS,
    dropped: NOTHING_DROPPED,
    translated: null,
    stream: call.stream ? "forwards" : null,
    observer: dialect.observer,
    collector: noCollector,
    whole: (bytes) => readBy(dialect, bytes),
    opensWith: (bytes) => firstFault(dialect.codec, bytes),
  };
}

function noCollector(): never {
  throw new Error("this wire does not collect");
}

function readBy(dialect: Dialect, bytes: Buffer): WholeAnswer | null {
  const read = dialect.readResponse(bytes);
  if (!read) return null;
  return "usage" in read ? { bytes, usage: read.usage, text: "" } : { bytes, usage: null, text: read.text };
}

function capOf({ settings, ctx, call, lease }: Parts): number | undefined {
  return settings.outputCapOf ? settings.outputCapOf(ctx, call, lease) : ctx.outputCap;
}

function ownWire(parts: Parts, path: string): Wire {
  const { settings, call, lease, row, collects } = parts;
  const outputCap = capOf(parts);
  const dialect = settings.dialectOf(call);
  const rewritten = dialect.rewrite(call, {
    model: lease.model,
    includeUsage: call.stream || collects,
    // The legacy completions know only the older field.
    capField: call.operation === "chat" ? row.capField : "max_tokens",
    ...(outputCap === undefined ? {} : { outputCap }),
  });
  const family = familyOf(row, lease.model);
  const bytes = call.reasoning === undefined ? rewritten : withReasoning(dialect, call, rewritten, { model: lease.model, family });
  const plain = plainWire(dialect, call, path, bytes);
  const { adapt, unwrap, requestHeaders } = row;
  if (!adapt && !unwrap && !requestHeaders && !collects) return plain;
  const asked = adaptedOf(parts);
  let body = bytes === call.bytes ? call.body : (JSON.parse(bytes.toString()) as JsonObject);
  if (collects && dialect.routes.some(({ operation, stream }) => operation === "chat" && stream === undefined)) body = { ...body, stream: true };
  const sent = adapt ? adapt.call(row, body, asked) : body;
  return {
    ...plain,
    body: sent === body && !collects ? bytes : jsonBytes(sent),
    headers: requestHeaders ? requestHeaders.call(row, sent, asked) : NO_HEADERS,
    stream: streamOf(parts),
    observer: unwrap ? (options) => unwrappedObserver(dialect.observer(options), unwrap) : dialect.observer,
    collector: (options) => reread(parts, dialect).collector(options),
    whole: unwrap ? (answer) => unwrapped(dialect, answer, unwrap) : plain.whole,
    opensWith: (start) => firstFault(dialect.codec, start, unwrap),
  };
}

/** For a stream that is put together: read and written in the one dialect. The request is not: it has gone out as it came. */
function reread({ settings, ctx, call, lease, row }: Parts, dialect: Dialect): Translation {
  const { codec } = dialect;
  if (!codec) throw new Error(`${dialect.id} cannot be put together`);
  const lost = losses(true);
  const request = codec.decodeRequest(call.body, { model: lease.model, stream: false }, lost);
  return translation({
    from: codec,
    to: codec,
    request,
    encoding: { losses: lost, family: familyOf(row, lease.model) },
    answering: answeringOf(settings, ctx, call, lease),
    unwrap: row.unwrap,
  });
}

function unwrapped(dialect: Dialect, bytes: Buffer, unwrap: (body: JsonObject) => JsonObject): WholeAnswer | null {
  const body = parsed(bytes);
  return body && readBy(dialect, jsonBytes(unwrap(body)));
}

function parsed(bytes: Buffer): JsonObject | null {
  try {
    return fieldsOf(JSON.parse(bytes.toString()));
  } catch {
    return null;
  }
}

const jsonBytes = (body: JsonObject): Buffer => Buffer.from(JSON.stringify(body));

const answeringOf = ({ nextId }: WireSettings, { services }: Context, call: Call, lease: Lease) => ({
  model: lease.model,
  nextId,
  created: Math.floor(services.clock.now() / 1_000),
  wantsUsage: call.wantsUsage,
});

function translatedWire(parts: Parts, path: string, from: Codec, to: ProviderCodec): Wire {
  const { settings, ctx, call, lease, row } = parts;
  const stream = streamOf(parts);
  const lost = losses(settings.lossy);
  const decoded = from.decodeRequest(call.body, { model: lease.model, stream: stream !== null }, lost);
  const reasoning = reasoningOf(call, decoded.reasoning);
  const request: ChatRequest = reasoning ? { ...decoded, reasoning } : decoded;
  // Some dialects must name a cap: then it is the model's own, not one of ours.
  const outputCap = capOf(parts) ?? (call.maxOutputTokens === null ? (settings.maxOutputTokensOf(lease.name) ?? undefined) : undefined);
  const made = translation({
    from,
    to,
    request,
    encoding: {
      losses: lost,
      family: familyOf(row, lease.model),
      capField: row.capField,
      ...(outputCap === undefined ? {} : { outputCap }),
    },
    answering: answeringOf(settings, ctx, call, lease),
    unwrap: row.unwrap,
  });
  const asked = adaptedOf(parts);
  const sent = row.adapt ? row.adapt(made.body, asked) : made.body;
  return {
    path,
    body: jsonBytes(sent),
    headers: row.requestHeaders ? row.requestHeaders(sent, asked) : NO_HEADERS,
    dropped: lost.dropped,
    translated: to,
    stream,
    observer: made.observer,
    collector: made.collector,
    whole: made.answer,
    // Its observer says so by itself.
    opensWith: () => null,
  };
}
