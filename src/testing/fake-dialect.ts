import type { Composed, FakeAnswer, Json } from "./fake-answers.ts";
import type { TokenCount } from "./truth-log.ts";

/** One request of a dialect, and what a script wants for an answer. */
export interface FakeQuery {
  readonly body: Json;
  readonly answer: FakeAnswer;
  /** Makes ids unique. */
  readonly serial: number;
  readonly createdS: number;
  readonly model?: string | undefined;
  readonly search: URLSearchParams;
}

/** One operation that the fake upstream can answer. */
export interface FakeRoute {
  /** How its path ends; a group is the model's name. */
  readonly path: RegExp;
  readonly compose: (query: FakeQuery) => Composed;
  /** Where the model's name stands, if neither in the path nor in `model`. */
  readonly modelOf?: (body: Json) => unknown;
  /** Whether this request asks for a stream. */
  readonly isStream: (body: Json) => boolean;
  /** What the provider would refuse with 400; null = it is fine. */
  readonly complaint?: (body: Json, headers: Json) => string | null;
}

/** How a provider lists its models. */
export interface ModelShape {
  readonly one: (id: string) => Json;
  /** `page` = what to show, `next` = the name of the first that is not shown any more. */
  readonly list: (page: readonly Json[], ids: readonly string[], next: string | null) => Json;
  /** The first name to show: by a name, or by the name before it. */
  readonly from?: string;
  readonly after?: string;
  readonly size?: string;
}

/** How a provider of one wire format speaks. Another format is another row in fake-routes.ts. */
export interface FakeDialect {
  readonly routes: readonly FakeRoute[];
  readonly error: (status: number, message: string, serial: number) => Json;
  /** Says in mid-stream, behind so many events, that the provider failed. */
  readonly errorEvent: (message: string, serial: number, position: number) => { readonly event?: string; readonly data: string };
  readonly models: ModelShape;
  readonly headers: (serial: number) => Readonly<Record<string, string>>;
  /** Is shown the events of one answer, or all of it, and says the tokens told so far, as totals; null = none yet. */
  readonly teller: () => (json: Json) => TokenCount | null;
}
