import type { Context } from "../../core/context.ts";
import type { Credential } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { ResponseHeaders, Transport } from "../../upstream/transport.ts";

/** A page of a list; more is a fault or an attack. */
const MOST_BYTES = 8 * 1024 * 1024;

export interface Asked {
  readonly credential: Credential;
  /** Below the base URL, with the query. */
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly timeoutMs: number;
}

export interface ProviderAnswer {
  readonly status: number;
  readonly headers: ResponseHeaders;
  readonly body: Buffer;
}

/** Reads something small from a provider on behalf of a client. Any status is an answer; throws `upstream_*` when there is none, or the client left. */
export function ask(transport: Transport, ctx: Context, { credential, path, headers, timeoutMs }: Asked): Promise<ProviderAnswer> {
  const { origin, basePath, allowPrivate, proxyUrl } = credential;
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    let head: Pick<ProviderAnswer, "status" | "headers"> | undefined;
    const over = (): void => {
      timer.cancel();
      ctx.onGone(undefined);
    };
    const fail = (error: GuardError): void => {
      over();
      reject(error);
    };
    const giveUp = (error: GuardError): void => {
      exchange.abort();
      fail(error);
    };
    const timer = ctx.services.clock.timer(timeoutMs, () => giveUp(new GuardError("upstream_timeout", "the provider did not answer in time")));
    const exchange = transport.send(
      { origin, path: basePath + path, method: "GET", headers, body: null, allowPrivate, proxyUrl },
      {
        head(status, answered) {
          head = { status, headers: answered };
        },
        data(chunk) {
          chunks.push(chunk);
          size += chunk.length;
          if (size > MOST_BYTES) giveUp(new GuardError("upstream_protocol", "the provider's list is too large to find what is yours in it"));
          return true;
        },
        end() {
          over();
          if (head) resolve({ ...head, body: Buffer.concat(chunks, size) });
          else reject(new GuardError("upstream_protocol", "the provider's answer had no head"));
        },
        fail,
      },
    );
    ctx.onGone((reason) => giveUp(reason ?? new GuardError("upstream_unreachable", "the client left")));
  });
}
