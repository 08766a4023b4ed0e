/** A list of models, and one of them, as the callers of each dialect read them. */
import type { DialectId } from "../../core/call.ts";

export interface ShownModel {
  readonly id: string;
  /** Seconds since the epoch. */
  readonly created: number;
  readonly ownedBy: string;
}

/** The last that can be written as a date of four digits. */
const LAST_SECOND = 253_402_300_799;

type Json = Readonly<Record<string, unknown>>;

interface Shape {
  one(model: ShownModel): Json;
  /** All of them: there is no next page. */
  many(models: readonly Json[]): Json;
}

const openai: Shape = {
  one: ({ id, created, ownedBy }) => ({ id, object: "model", created, owned_by: ownedBy }),
  many: (data) => ({ object: "list", data }),
};

const anthropic: Shape = {
  one: ({ id, created }) => ({
    type: "model",
    id,
    display_name: id,
    created_at: `${new Date(Math.min(created, LAST_SECOND) * 1_000).toISOString().slice(0, 19)}Z`,
  }),
  many: (data) => ({ data, has_more: false, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null }),
};

const METHODS = ["generateContent", "streamGenerateContent", "countTokens"];

const gemini: Shape = {
  one: ({ id }) => ({ name: `models/${id}`, displayName: id, supportedGenerationMethods: METHODS }),
  many: (models) => ({ models }),
};

export const SHAPES: Readonly<Record<DialectId, Shape>> = { openai, responses: openai, anthropic, gemini };
