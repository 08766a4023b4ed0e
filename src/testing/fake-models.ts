/** Lists of models, in the shapes of three providers, page by page where the provider does so. */
import type { Json } from "./fake-answers.ts";
import type { FakeDialect, ModelShape } from "./fake-dialect.ts";

export const OPENAI_MODELS: ModelShape = {
  one: (id) => ({ id, object: "model", created: 1_700_000_000, owned_by: "fake" }),
  list: (data) => ({ object: "list", data }),
};

export const ANTHROPIC_MODELS: ModelShape = {
  one: (id) => ({ type: "model", id, display_name: id, created_at: "2025-01-01T00:00:00Z" }),
  list: (data, ids, next) => ({ data, has_more: next !== null, first_id: ids[0] ?? null, last_id: ids.at(-1) ?? null }),
  after: "after_id",
  size: "limit",
};

export const GEMINI_MODELS: ModelShape = {
  one: (id) => ({
    name: `models/${id}`,
    version: "001",
    displayName: id,
    inputTokenLimit: 1_048_576,
    outputTokenLimit: 65_536,
    supportedGenerationMethods: ["generateContent", "countTokens"],
  }),
  list: (models, _ids, next) => ({ models, ...(next === null ? {} : { nextPageToken: next }) }),
  from: "pageToken",
  size: "pageSize",
};

/** A list of models, or one of them; null = the path asks for neither, or for one that is not there. */
export function modelsFor({ models: shape }: FakeDialect, names: readonly string[], { pathname, searchParams }: URL): Json | null {
  const found = /\/models(?:\/([^/]+))?$/.exec(pathname);
  if (!found) return null;
  if (found[1] !== undefined) {
    const id = decodeURIComponent(found[1]);
    return names.includes(id) ? shape.one(id) : null;
  }
  const before = shape.after === undefined ? -1 : names.indexOf(searchParams.get(shape.after) ?? "");
  const first = shape.from === undefined ? before + 1 : Math.max(0, names.indexOf(searchParams.get(shape.from) ?? ""));
  const size = shape.size === undefined ? names.length : Number(searchParams.get(shape.size) ?? names.length);
  const ids = names.slice(first, first + Math.max(1, size));
  return shape.list(ids.map(shape.one), ids, names[first + ids.length] ?? null);
}
