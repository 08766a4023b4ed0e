import { ConfigError } from "../../core/errors.ts";
import { NewerSchemaError } from "../sql/migrations.ts";

/** No answer within the deadline. */
export class DeadlineError extends Error {
  constructor(what: string, waitedMs: number) {
    super(`Postgres did not give ${what} within ${Math.round(waitedMs)} ms`);
    this.name = "DeadlineError";
  }
}

/** What the server itself says; everything else (a broken socket, a deadline) comes from this side. */
interface ServerError {
  /** Five characters, the first two are the class. */
  readonly code: string;
  readonly severity: string;
}

function serverError(error: unknown): ServerError | undefined {
  const { code, severity } = (error ?? {}) as Partial<ServerError>;
  return typeof code === "string" && typeof severity === "string" ? { code, severity } : undefined;
}

const READ_ONLY_SERVER = "25006";

/**
 * The server refused the statement and the connection is as good as before. One to a server that has become read-only is not: after a failover the
 * same name leads to another server, and only a new connection finds it.
 */
export function keepsConnection(error: unknown): boolean {
  const server = serverError(error);
  return server?.severity === "ERROR" && server.code !== READ_ONLY_SERVER;
}

const SERIALIZATION_FAILURE = "40001";
const DEADLOCK = "40P01";
/** Shutdown by an administrator, crash of another process, not yet ready, database dropped, idle for too long. */
const INTERVENTION = /^57P0/;

/** True when the same statement may well succeed at once, on another connection: a deadlock, or a connection that broke. */
export function isPassing(error: unknown): boolean {
  if (error instanceof DeadlineError || isProgramFault(error)) return false;
  const server = serverError(error);
  if (server === undefined) return true;
  return server.code === SERIALIZATION_FAILURE || server.code === DEADLOCK || INTERVENTION.test(server.code) || server.code.startsWith("08");
}

/** True when the row itself cannot be stored (data exceptions, constraints, sizes): writing it again will never help, and the rows beside it are fine. */
export function isRowFault(error: unknown): boolean {
  return isProgramFault(error) || /^(?:22|23|54)/.test(serverError(error)?.code ?? "");
}

const isProgramFault = (error: unknown): boolean => error instanceof TypeError || error instanceof RangeError;

const PASSWORD = "the server wants another user or password: correct them in the URL (characters such as @ : / # % are written percent-encoded)";
const CERTIFICATE = "its certificate is not trusted: name the authority's file with ?sslrootcert=<file> in the URL";
const READ_ONLY = "it is read-only, as a standby is: name the primary server";

/** By SQLSTATE or by the system's error code. */
const ADVICE: Readonly<Record<string, string>> = {
  ENOTFOUND: "there is no host of this name: correct the host in the URL",
  EAI_AGAIN: "the name of the host cannot be looked up now: check the host in the URL and the name server",
  ECONNREFUSED: "nobody listens there: start Postgres, or correct host and port in the URL",
  ECONNRESET: "the connection is closed from there: is it a Postgres that takes connections from here?",
  EHOSTUNREACH: "there is no way to this host: check host, port and firewall",
  ENETUNREACH: "there is no way to this host: check host, port and firewall",
  ETIMEDOUT: "the host does not answer: check host, port and firewall",
  ENOENT: "there is no such socket: start Postgres, or correct the path in the URL",
  EACCES: "the process may not use this socket: give its user the right, or name a host and port",
  DEPTH_ZERO_SELF_SIGNED_CERT: CERTIFICATE,
  SELF_SIGNED_CERT_IN_CHAIN: CERTIFICATE,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: CERTIFICATE,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: CERTIFICATE,
  ERR_TLS_CERT_ALTNAME_INVALID: "its certificate is for another name: use the name that the certificate has",
  "08P01": "something between here and the server does not know a setting: with PgBouncer, add statement_timeout to its ignore_startup_parameters",
  [READ_ONLY_SERVER]: READ_ONLY,
  "28000": "the server lets nobody in this way: correct the user in the URL, or allow user, host and TLS in its pg_hba.conf",
  "28P01": PASSWORD,
  "3D000": "there is no such database: create it, or correct the name in the URL",
  "42501":
    "the user may not create or change our tables: grant it create on the schema (and on the database, if the schema does not exist), or name a schema of its own with ?schema=<name>",
  "53100": "its disk is full: free space there",
  "53300": "it has no connection left: raise its max_connections or the role's limit, or lower poolSize",
  "55P03": "another process holds the lock that migrations take: end it and start again",
  "57014": "it was too slow, or a lock is held by another session: end that one, or raise deadlineMs",
  "57P03": "it is starting up or shutting down: wait until it takes connections",
};

/** Names the setting, the place and the way out for anything that keeps the store from starting. */
export function startProblem(error: unknown, place: string): Error {
  if (error instanceof ConfigError) return error;
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  const said = typeof message === "string" && message !== "" ? message : String(code ?? error);
  const advice = error instanceof DeadlineError ? ADVICE.ETIMEDOUT : (ADVICE[String(code)] ?? adviceByText(said));
  const what = error instanceof NewerSchemaError || advice === undefined ? said : `${advice} (${said})`;
  const problem = new ConfigError([`the Postgres database ${place} (ledger.url or postgresStore's first argument) cannot be used: ${what}`]);
  problem.cause = error;
  return problem;
}

/** The driver's own errors have no code. */
function adviceByText(message: string): string | undefined {
  if (/password/i.test(message)) return PASSWORD;
  if (/support SSL/i.test(message)) return "it has no TLS: leave out sslmode in the URL, or turn TLS on there";
  if (/timeout/i.test(message)) return ADVICE.ETIMEDOUT;
  return /terminated/i.test(message) ? ADVICE.ECONNRESET : undefined;
}
