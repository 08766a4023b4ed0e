/** What a path of the passthrough lane asks for, as far as its bytes need not be understood to know it. */
import { patternMatcher } from "../../pool/patterns.ts";

/** Things that stay at the provider, in the account that all tenants share. */
export type Resource = "files" | "batches";

/**
 * `run`: a model makes or hears an image or a sound · `create`, `list`, `item`: of a resource · `realtime`: a WebSocket · `other`: whatever this table
 * does not know.
 */
export type OperationKind = "run" | "create" | "list" | "item" | "realtime" | "other";

export interface LaneOperation {
  readonly kind: OperationKind;
  /** Stable, never made up by a client: credentials keep their health and limits under it. */
  readonly name: string;
  /** The pattern of the path, for rows, metrics and limits per route. */
  readonly route: string;
  /** The family that the path belongs to, also where this table does not know what is done to it. */
  readonly resource: Resource | null;
  /** Which one of the resource; null for all of them. */
  readonly id: string | null;
  /** Free by nature: no provider charges for it, so it needs no price. */
  readonly isFree: boolean;
  /** A model works for it, so whoever may use only some models must say which. */
  readonly runsModel: boolean;
}

const RESOURCE = /^\/v1\/(files|batches)(?:\/([^/]+)(?:\/([^/]+))?)?$/;
const RUN = /^\/v1\/(images|audio)\/[^/]+$/;
const REALTIME = "/v1/realtime";
const OTHER = "/v1/*";

const READS: ReadonlySet<string> = new Set(["GET", "HEAD"]);

function runOf(family: string): LaneOperation {
  const name = `/v1/${family}`;
  return { kind: "run", name, route: `${name}/*`, resource: null, id: null, isFree: false, runsModel: true };
}

const RUNS: Readonly<Record<string, LaneOperation>> = { images: runOf("images"), audio: runOf("audio") };

const SOCKET: LaneOperation = { kind: "realtime", name: REALTIME, route: REALTIME, resource: null, id: null, isFree: false, runsModel: true };

/** Of files: GET and DELETE one, GET its content. Of batches: GET one, POST its cancel. */
function isItem(method: string, resource: Resource, action: string | undefined): boolean {
  if (action === undefined) return READS.has(method) || (method === "DELETE" && resource === "files");
  return resource === "files" ? READS.has(method) && action === "content" : method === "POST" && action === "cancel";
}

function ofResource(method: string, resource: Resource, id: string | undefined, action: string | undefined): LaneOperation | null {
  const name = `/v1/${resource}`;
  if (id === undefined) {
    const kind = READS.has(method) ? "list" : method === "POST" ? "create" : null;
    if (kind === null) return null;
    // A batch is many model calls; a file is only kept.
    const runsModel = kind === "create" && resource === "batches";
    return { kind, name, route: name, resource, id: null, isFree: !runsModel, runsModel };
  }
  if (!isItem(method, resource, action)) return null;
  const route = action === undefined ? `${name}/{id}` : `${name}/{id}/${action}`;
  return { kind: "item", name, route, resource, id, isFree: true, runsModel: false };
}

/** What is asked for. `path` begins with `/v1/` and has no query. Pure: the same for the step that prices it and the one that sends it. */
export function operationOf(method: string, path: string): LaneOperation {
  if (path === REALTIME) return SOCKET;
  const run = method === "POST" ? RUN.exec(path) : null;
  if (run) return RUNS[run[1] as string] as LaneOperation;
  const [, family, id, action] = RESOURCE.exec(path) ?? [];
  const known = family === undefined ? null : ofResource(method, family as Resource, id, action);
  if (known) return known;
  const resource = path.startsWith("/v1/files") ? "files" : path.startsWith("/v1/batches") ? "batches" : null;
  const isFree = READS.has(method) || method === "DELETE";
  return { kind: "other", name: OTHER, route: OTHER, resource, id: null, isFree, runsModel: !isFree };
}

/** What is passed through unless the operator lists paths himself. */
const DEFAULT_PATHS: readonly string[] = ["/v1/images/*", "/v1/audio/*", "/v1/files", "/v1/files/*", "/v1/batches", "/v1/batches/*", REALTIME];

/**
 * Which paths the lane answers, and for whom. Those that {@link operationOf} knows are for every key. Of the others nobody can tell whose the things are
 * that they make or show, because all tenants share the provider's account: they are for the master key alone, unless the operator lists their paths.
 */
export interface LanePaths {
  /** Whether the lane answers it; else it is the host's. */
  takes(path: string): boolean;
  /** Whether any key may ask for it. */
  isOpen(operation: LaneOperation, path: string): boolean;
}

/** `paths` are patterns (`/v1/images/*`); `others` also takes what no pattern names (`quotaguard serve`). */
export function lanePaths(paths: readonly string[] | "default", others: boolean): LanePaths {
  const matchers = (paths === "default" ? DEFAULT_PATHS : paths).map(patternMatcher);
  const isListed = (path: string): boolean => matchers.some((matches) => matches(path));
  return {
    takes: (path) => isListed(path) || (others && path.startsWith("/v1/")),
    // What else can be done to files and batches stays closed: a pattern for all of them means the operations that keep tenants apart.
    isOpen({ kind, resource }, path) {
      if (kind !== "other") return isListed(path);
      return paths !== "default" && resource === null && isListed(path);
    },
  };
}
