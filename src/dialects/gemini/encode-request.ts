/** The neutral form, written as a generateContent request. */
import type { Family } from "../../core/call.ts";
import type { EncodedRequest, EncodeOptions } from "../codec.ts";
import { flattenedInput, flattenedTool } from "../custom-tools.ts";
import type { Losses } from "../losses.ts";
import type {
  AssistantBlock,
  ChatRequest,
  FileBlock,
  ImageBlock,
  JsonObject,
  MediaBlock,
  MediaSource,
  TextBlock,
  Tool,
  ToolResultBlock,
  Turn,
} from "../message.ts";
import { namesIn, toolNames, type NameRule, type ToolNames } from "../tool-names.ts";
import { cleanSchema } from "./clean-schema.ts";
import { thinkingConfig } from "./thinking.ts";
import { fieldsOf } from "../usage.ts";

const NAMES: NameRule = { maxLength: 64, allowed: /[a-zA-Z0-9_.:-]/, first: /[a-zA-Z_]/ };
const MOST_STOPS = 5;

export function encodeRequest(request: ChatRequest, { losses, family, outputCap }: EncodeOptions): EncodedRequest {
  const names = toolNames(namesIn(request), NAMES);
  const body: Record<string, unknown> = { contents: contentsOf(request, names, family, losses) };
  if (request.system.length > 0) body.systemInstruction = { parts: request.system.map(({ text }) => ({ text })) };
  setTools(body, request, names, losses);
  const config: Record<string, unknown> = {};
  const set = (name: string, value: unknown): void => {
    if (value !== null && value !== undefined) config[name] = value;
  };
  set("maxOutputTokens", outputCap === undefined ? request.maxOutputTokens : Math.min(request.maxOutputTokens ?? outputCap, outputCap));
  set("temperature", request.temperature);
  set("topP", request.topP);
  set("topK", request.topK);
  set("seed", request.seed);
  if (request.stop.length > MOST_STOPS) losses.cannot("stop", `a Gemini model takes at most ${MOST_STOPS} of them`);
  if (request.stop.length > 0) config.stopSequences = request.stop.slice(0, MOST_STOPS);
  if (request.format) config.responseMimeType = "application/json";
  if (request.format?.kind === "json_schema") config.responseJsonSchema = cleanSchema(request.format.schema);
  set("thinkingConfig", thinkingConfig(request, losses));
  if (Object.keys(config).length > 0) body.generationConfig = config;
  return { body, toolName: names.original };
}

function setTools(body: Record<string, unknown>, { tools, toolChoice, parallelToolCalls }: ChatRequest, names: ToolNames, losses: Losses): void {
  const declarations = tools.flatMap((tool) => (tool.kind === "web_search" ? [] : [declarationOf(tool, names)]));
  const all = [
    ...(declarations.length > 0 ? [{ functionDeclarations: declarations }] : []),
    ...(tools.some(({ kind }) => kind === "web_search") ? [{ googleSearch: {} }] : []),
  ];
  if (all.length === 0) return;
  body.tools = all;
  if (parallelToolCalls === false) losses.drops("parallel_tool_calls");
  if (!toolChoice || declarations.length === 0) return;
  const mode = { auto: "AUTO", none: "NONE", required: "ANY", tool: "ANY" }[toolChoice.kind];
  const allowed = toolChoice.kind === "tool" ? { allowedFunctionNames: [names.sent(toolChoice.name)] } : {};
  body.toolConfig = { functionCallingConfig: { mode, ...allowed } };
}

function declarationOf(tool: Exclude<Tool, { kind: "web_search" }>, names: ToolNames): JsonObject {
  const { description, schema } = tool.kind === "custom" ? flattenedTool(tool) : tool;
  return { name: names.sent(tool.name), ...(description === null ? {} : { description }), parametersJsonSchema: cleanSchema(schema) };
}

/** Begins and ends with the user; each call has its answer behind it, in the order of the calls, because that is how Gemini tells them apart. */
function contentsOf({ turns }: ChatRequest, names: ToolNames, family: Family, losses: Losses): readonly JsonObject[] {
  const contents: { readonly role: "user" | "model"; readonly parts: readonly JsonObject[] }[] = [];
  turns.forEach((turn, i) => {
    if (turn.role === "assistant") {
      const next = turns[i + 1];
      // The end of a conversation is the user's: what is put into the model's mouth, or was called and never answered, is none.
      if (!next) {
        losses.drops("messages");
        return;
      }
      const parts = modelParts(turn, answeredIn(next), names, family, losses);
      if (parts.length > 0) contents.push({ role: "model", parts });
    } else {
      const parts = userParts(turn, callOrder(turns[i - 1]), names);
      const last = contents.at(-1);
      if (last?.role === "user") contents[contents.length - 1] = { role: "user", parts: [...last.parts, ...parts] };
      else contents.push({ role: "user", parts });
    }
  });
  if (contents[0]?.role === "model") contents.unshift({ role: "user", parts: [{ text: "." }] });
  return contents.length > 0 ? contents : [{ role: "user", parts: [{ text: "." }] }];
}

const answeredIn = ({ blocks }: Turn): ReadonlySet<string> => new Set(blocks.flatMap((block) => (block.type === "tool_result" ? [block.id] : [])));

/** Where each call stands in its turn. */
const callOrder = (turn: Turn | undefined): ReadonlyMap<string, number> =>
  new Map((turn?.blocks ?? []).flatMap((block, i) => (block.type === "tool_call" ? [[block.id, i] as const] : [])));

function userParts({ blocks }: Extract<Turn, { role: "user" }>, order: ReadonlyMap<string, number>, names: ToolNames): readonly JsonObject[] {
  const at = ({ id }: ToolResultBlock): number => order.get(id) ?? -1;
  const results = blocks.filter((block): block is ToolResultBlock => block.type === "tool_result").sort((a, b) => at(a) - at(b));
  const shown = results.flatMap(({ content }) => content.filter(({ type }) => type !== "text").map(partOf));
  const rest = blocks.flatMap((block) => (block.type === "tool_result" ? [] : [partOf(block)]));
  return [...results.map((result) => responsePart(result, names)), ...shown, ...rest];
}

function responsePart({ name, content, isError }: ToolResultBlock, names: ToolNames): JsonObject {
  const text = content.flatMap((block) => (block.type === "text" ? [block.text] : [])).join("\n");
  return { functionResponse: { name: names.sent(name ?? ""), response: isError ? { error: text } : { result: text } } };
}

function partOf(block: TextBlock | ImageBlock | FileBlock | MediaBlock): JsonObject {
  return block.type === "text" ? { text: block.text } : mediumPart(block.source, block.type === "image" ? "image/*" : null);
}

export function mediumPart(source: MediaSource, mediaType: string | null): JsonObject {
  if (source.kind === "base64") return { inlineData: { mimeType: source.mediaType, data: source.data } };
  const type = source.mediaType ?? mediaType;
  return { fileData: { ...(type === null ? {} : { mimeType: type }), fileUri: source.url } };
}

function modelParts(
  { blocks }: Extract<Turn, { role: "assistant" }>,
  answered: ReadonlySet<string>,
  names: ToolNames,
  family: Family,
  losses: Losses,
): readonly JsonObject[] {
  const parts: JsonObject[] = [];
  let calls = 0;
  for (const block of blocks) {
    if (block.type === "tool_call") {
      if (!answered.has(block.id)) continue;
      calls += 1;
      parts.push(callPart(block, names, family, calls === 1));
    } else if (block.type === "text") parts.push({ text: block.text });
    else if (block.type === "thinking") {
      // Hidden thoughts are not told to anybody else, and a signature only to the family that made it.
      if (block.signature?.family === family) parts.push({ text: block.text, thought: true, thoughtSignature: block.signature.value });
    } else if (block.type === "image" || block.type === "media") parts.push(mediumPart(block.source, null));
    else losses.drops("messages");
  }
  return parts;
}

/** Of parallel calls Gemini signs the first alone. */
function callPart(block: Extract<AssistantBlock, { type: "tool_call" }>, names: ToolNames, family: Family, isFirst: boolean): JsonObject {
  const signed = isFirst && block.signature?.family === family ? { thoughtSignature: block.signature.value } : {};
  return { functionCall: { name: names.sent(block.name), args: argsOf(block.isCustom ? flattenedInput(block.input) : block.input) }, ...signed };
}

/** Arguments are an object here: another value is kept inside one. */
export function argsOf(json: string): JsonObject {
  try {
    const value: unknown = JSON.parse(json === "" ? "{}" : json);
    return fieldsOf(value) ?? { value };
  } catch {
    return {};
  }
}
