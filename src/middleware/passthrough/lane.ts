/**
 * The passthrough lane: operations whose bytes we do not understand are sent on as they are, behind the same auth, budgets and choice of credentials as model
 * calls. One attempt each, because a body that streams cannot be sent twice.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { LookupFunction } from "node:net";
import type { Answer } from "../../core/answer.ts";
import type { Context, Services } from "../../core/context.ts";
import { NEVER_SENT, type Credential, type Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { RecordStore } from "../../core/store.ts";
import type { Upgrading } from "../../http/upgrade.ts";
import { matchesAny } from "../../pool/patterns.ts";
import type { Pool } from "../../pool/pool.ts";
import { upstreamPath } from "../../upstream/providers.ts";
import type { Transport } from "../../upstream/transport.ts";
import { forwardedQuery, parameter, type LaneAddress } from "./address.ts";
import { agents, type Seat } from "./agents.ts";
import { carrier } from "./carrier.ts";
import { FREE_OF_CHARGE } from "./charge.ts";
import { Exchange } from "./exchange.ts";
import { presentedKey, sentHeaders } from "./headers.ts";
import { lender } from "./lend.ts";
import { listing } from "./listing.ts";
import { filesIn } from "./named-files.ts";
import type { LaneOperation, LanePaths } from "./operations.ts";
import { directNames, ownership, tenantOf, type Tenant, type Thing } from "./ownership.ts";
import { modelIn, payloadOf, sentBody, type Payload } from "./payload.ts";
import { filesOf, learn, tellsOfThings } from "./things.ts";
import { Tunnel } from "./tunnel.ts";

export interface LaneOptions {
  /** Of the guard that the lane belongs to. */
  readonly services: Services;
  readonly pool: Pool;
  /** Keeps whose the files are. */
  readonly records: RecordStore;
  readonly credentials: Iterable<Credential>;
  /** The model that a client's name stands for. */
  readonly resolve: (model: string) => string;
  /** Reads lists. */
  readonly transport: Transport;
  readonly paths: LanePaths;
  /** Largest JSON body, bytes. */
  readonly bodyLimit: number;
  /** For name lookup, TCP and TLS together. */
  readonly connectTimeoutMs: number;
  /** How long nothing may move while a body is on its way, in either direction. */
  readonly idleTimeoutMs: number;
  /** How long a provider may take from the end of a request to the head of its answer. */
  readonly requestTimeoutMs: number;
  /** Replaces `dns.lookup`; its answers are still checked. */
  readonly lookup?: LookupFunction;
  /** Certificates to trust besides the system's. */
  readonly ca?: string | Buffer;
}

/** What is asked for, and where. */
export interface LaneRequest {
  readonly ctx: Context;
  readonly operation: LaneOperation;
  readonly address: LaneAddress;
  readonly req: IncomingMessage;
}

export interface PassthroughLane {
  /** Delivers the answer itself (null), or returns what to answer with. Throws GuardError when there is no answer. */
  send(request: LaneRequest, res: ServerResponse): Promise<Answer | null>;
  /** Connects a WebSocket (null), or returns the provider's refusal. `protocols` are those that the client offers, without keys. */
  connect(request: LaneRequest, edge: Upgrading, early: Buffer, protocols: readonly string[]): Promise<Answer | null>;
  /** Closes connections that are idle; let open requests finish first. */
  close(): void;
}

export function passthroughLane(options: LaneOptions): PassthroughLane {
  const { services, records, credentials, resolve, paths, transport, requestTimeoutMs } = options;
  const direct = directNames(credentials);
  const connections = agents({ clock: services.clock, connectTimeoutMs: options.connectTimeoutMs, lookup: options.lookup, ca: options.ca });
  const carry = carrier();
  const lend = lender(options.pool, () => direct[Symbol.iterator]().next().done !== true);
  const owners = ownership({ records, credentials: direct, now: services.clock.now });
  const list = listing({
    transport,
    owners,
    credentials: direct,
    requestTimeoutMs,
    lend: (ctx, resource, credential, page) =>
      lend(ctx, { operation: `/v1/${resource}`, model: null, affinity: null, credential, opId: `${ctx.id}.p${page}` }),
    async seen(resource, item, credential, owner) {
      for (const file of filesOf(resource, item)) await owners.named(owner, credential, file);
    },
  });

  function permit({ ctx, operation, address }: LaneRequest): void {
    if (ctx.principal?.kind === "master" || paths.isOpen(operation, address.path)) return;
    throw new GuardError("forbidden", MASTER_ONLY);
  }

  /** Refuses a model that this key may not use, and one that cannot be seen where it may not use all. */
  function checkModel({ ctx, operation }: LaneRequest, model: string | null): void {
    const allowed = ctx.principal?.models;
    if (!allowed || !operation.runsModel) return;
    // The models of a batch stand in its file.
    if (model === null || operation.resource === "batches") throw new GuardError("model_not_allowed", UNSEEN_MODEL, { param: "model" });
    if (matchesAny(allowed, model) || matchesAny(allowed, resolve(model))) return;
    throw new GuardError("model_not_allowed", "this key may not use this model; GET /v1/models lists what it may use", { param: "model" });
  }

  /** The credential that holds what the request is about; null = any. */
  function placeOf({ resource, id }: LaneOperation, tenant: Tenant, payload: Payload): Promise<string | null> {
    const things: Thing[] = payload.kind === "json" ? filesIn(payload.fields).map((file) => ({ resource: "files", id: file })) : [];
    if (resource !== null && id !== null) things.push({ resource, id });
    return owners.holderOf(tenant, things);
  }

  /** A lease, and room for one more connection with its credential. */
  async function board(request: LaneRequest, model: string | null, affinity: string | null, place: string | null): Promise<[Lease, Seat]> {
    const { ctx, operation } = request;
    const lease = await lend(ctx, { operation: operation.name, model, affinity, credential: place, opId: ctx.id });
    try {
      return [lease, connections.enter(lease.credential)];
    } catch (error) {
      lease.release(NEVER_SENT);
      throw error;
    }
  }

  /** The model's name at the provider; null = none was seen. A credential that files decide on knows no names but the model's own. */
  function nameThere(ctx: Context, model: string | null, lease: Lease, place: string | null): string | null {
    if (model === null) return null;
    const name = place === null ? lease.model : resolve(model);
    if (name !== model) ctx.reply("x-quotaguard-model", /^[\x21-\x7e]+$/.test(name) ? name : encodeURIComponent(name.toWellFormed()));
    return name;
  }

  async function sendList({ ctx, address }: LaneRequest, tenant: Tenant, resource: Thing["resource"]): Promise<Answer> {
    const answer = await list({ ctx, tenant, resource, query: address.query });
    ctx.charged = answer.status < 300 ? FREE_OF_CHARGE : { kind: "nothing" };
    return answer;
  }

  return {
    async send(request, res) {
      const { ctx, operation, address, req } = request;
      ctx.services = services;
      permit(request);
      if (operation.kind === "realtime") throw new GuardError("method_not_allowed", SOCKET_ONLY, { headers: { upgrade: "websocket" } });
      const tenant = tenantOf(ctx);
      const query = forwardedQuery(address.query, presentedKey(ctx.headers), null);
      if (operation.kind === "list" && operation.resource !== null) return sendList(request, tenant, operation.resource);
      const payload = await payloadOf(req, options.bodyLimit, services.logger);
      const model = operation.runsModel ? modelIn(payload) : null;
      checkModel(request, model);
      ctx.model = model;
      const place = await placeOf(operation, tenant, payload);
      const [lease, seat] = await board(request, model, operation.resource === null ? null : tenant.name, place);
      const { credential } = lease;
      const isHeld = tellsOfThings(ctx.method, operation);
      const exchange = new Exchange({ ctx, lease, seat, operation, model: model === null ? null : resolve(model), isHeld, req, res }, options);
      const delivered = await exchange.run(carry, () => {
        const body = sentBody(req, payload, nameThere(ctx, model, lease, place));
        return {
          origin: credential.origin,
          agent: seat.agent,
          method: ctx.method,
          path: upstreamPath(credential, address.path) + query,
          headers: sentHeaders(ctx.headers, credential, body.length),
          body: body.source,
          client: req.socket,
        };
      });
      if (!delivered) return null;
      const { answer, isGood } = delivered;
      if (!isGood || !Buffer.isBuffer(answer.body)) return answer;
      try {
        await learn(owners, ctx.method, operation, tenant, credential.name, answer.body);
      } catch (error) {
        const found = { err: error, requestId: ctx.requestId, credential: credential.name, tenant: tenant.name };
        services.logger.error(found, "the provider has done what was asked, but whose it is could not be noted: only the master key finds it");
        throw error;
      }
      return answer;
    },

    async connect(request, edge, early, protocols) {
      const { ctx, address } = request;
      ctx.services = services;
      permit(request);
      // A call that is under way belongs to whoever made it, and nobody knows who that was.
      if (ctx.principal?.kind !== "master" && parameter(address.query, "call_id") !== null)
        throw new GuardError("not_found", "there is no such call");
      const model = parameter(address.query, "model");
      checkModel(request, model);
      ctx.model = model;
      const [lease, seat] = await board(request, model, null, null);
      return new Tunnel({ edge, early, lease, seat, protocols }).open(() => {
        const query = forwardedQuery(address.query, presentedKey(ctx.headers), nameThere(ctx, model, lease, null));
        return upstreamPath(lease.credential, address.path) + query;
      });
    },

    close: () => connections.close(),
  };
}

const MASTER_ONLY =
  "this path is for the master key only, because what is made here belongs to the provider's account, which all keys share; " +
  "the operator can open it by listing it under passthrough.paths";
const UNSEEN_MODEL =
  "this key may use some models only, and which one this request would use cannot be seen here; name it in a JSON body if the operation takes one, " +
  "or use a key without such a limit";
const SOCKET_ONLY = "/v1/realtime is a WebSocket: send an upgrade request";
