/** What a client asks for, read from its request by the dialect that the path belongs to. */

/** The wire formats of callers: OpenAI chat completions, OpenAI Responses, Anthropic Messages, Gemini generateContent. */
export type DialectId = "openai" | "responses" | "anthropic" | "gemini";

/** The wire formats of providers: what callers speak, and what no caller speaks. */
export type WireId = DialectId | "kiro";

/** Models of one family understand each other's signatures of thoughts; nobody else may see them. */
export type Family = "openai" | "anthropic" | "gemini";

/** `chat` is the dialect's own: a Responses request is one as well. */
export type Operation = "chat" | "completions" | "embeddings" | "count_tokens";

export interface Call {
  readonly dialect: DialectId;
  readonly operation: Operation;
  /** The model as the client named it. */
  readonly model: string;
  readonly stream: boolean;
  /** The client's own output cap in tokens; null when it named none. */
  readonly maxOutputTokens: number | null;
  /** How many answers are asked for (OpenAI's `n`); each may use the whole output cap. */
  readonly choices: number;
  /** Whether the client asked for usage at the end of a stream. */
  readonly wantsUsage: boolean;
  /** A level of reasoning that stood behind the model's name, `name(high)`; it goes before what the body says. */
  readonly reasoning?: string;
  readonly body: Readonly<Record<string, unknown>>;
  /** The request body as it arrived; forwarded untouched when nothing has to change. */
  readonly bytes: Buffer;
}
