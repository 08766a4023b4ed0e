/** A generateContent request, read into the neutral form. */
import { flagOf, invalid, listOf, numberOf, objectOf, requiredObject, requiredText, textOf, textsOf } from "../fields.ts";
import type { Losses } from "../losses.ts";
import {
  REASONING_LEVELS,
  type ChatRequest,
  type JsonObject,
  type OutputFormat,
  type Reasoning,
  type ReasoningLevel,
  type TextBlock,
  type Tool,
} from "../message.ts";
import { levelOf } from "../reasoning.ts";
import { turnBuilder } from "../turns.ts";
import { fieldsOf } from "../usage.ts";
import { member } from "./names.ts";
import { modelPart, userPart } from "./parts.ts";

const camel = (name: string): string => name.replaceAll(/_([a-z])/g, (_all, letter: string) => letter.toUpperCase());

/** Read here; `safetySettings` and `labels` only tune. */
const READ = new Set(["contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "cachedContent", "model", "session_id"]);
const READ_CONFIG = new Set(
  [
    "temperature topP topK candidateCount maxOutputTokens stopSequences responseMimeType responseSchema responseJsonSchema seed thinkingConfig",
    "responseLogprobs logprobs responseModalities",
  ]
    .join(" ")
    .split(" "),
);

export function decodeRequest(
  body: JsonObject,
  { model, stream }: { readonly model: string; readonly stream: boolean },
  losses: Losses,
): ChatRequest {
  const turns = turnBuilder();
  listOf(body.contents, "contents").forEach((value, i) => {
    const field = `contents[${i}]`;
    const content = requiredObject(value, field);
    const role = textOf(content.role, `${field}.role`) ?? "user";
    const parts = listOf(content.parts, `${field}.parts`).map(
      (part, n) => [requiredObject(part, `${field}.parts[${n}]`), `${field}.parts[${n}]`] as const,
    );
    if (role === "model") turns.assistant(...parts.flatMap(([part, at]) => modelPart(part, at, losses)));
    else if (role === "user" || role === "function") turns.user(...parts.flatMap(([part, at]) => userPart(part, at, losses)));
    else throw invalid(`${field}.role`, "must be user or model");
  });
  const config = objectOf(member(body, "generationConfig"), "generationConfig") ?? {};
  checkMeaning(body, config, losses);
  for (const field of Object.keys(body)) if (!READ.has(camel(field)) && !READ.has(field) && body[field] !== null) losses.drops(field);
  for (const field of Object.keys(config)) if (!READ_CONFIG.has(camel(field)) && config[field] !== null) losses.drops(`generationConfig.${field}`);
  const number = (name: string): number | null => numberOf(member(config, name), `generationConfig.${name}`);
  return {
    model,
    system: systemOf(member(body, "systemInstruction")),
    turns: turns.turns(),
    ...readChoice(
      objectOf(member(objectOf(member(body, "toolConfig"), "toolConfig"), "functionCallingConfig"), "toolConfig.functionCallingConfig"),
      toolsOf(body, losses),
    ),
    parallelToolCalls: null,
    maxOutputTokens: number("maxOutputTokens"),
    stop: textsOf(member(config, "stopSequences"), "generationConfig.stopSequences"),
    temperature: number("temperature"),
    topP: number("topP"),
    topK: number("topK"),
    seed: number("seed"),
    format: formatOf(config),
    reasoning: reasoningOf(objectOf(member(config, "thinkingConfig"), "generationConfig.thinkingConfig")),
    promptCacheKey: null,
    user: null,
    stream,
  };
}

function checkMeaning(body: JsonObject, config: JsonObject, losses: Losses): void {
  if (textOf(member(body, "cachedContent"), "cachedContent"))
    losses.cannot("cachedContent", "content that Google keeps is not known to another provider");
  if ((numberOf(member(config, "candidateCount"), "generationConfig.candidateCount") ?? 1) > 1)
    losses.cannot("generationConfig.candidateCount", "one answer at a time is all that this model's provider gives");
  if (flagOf(member(config, "responseLogprobs"), "generationConfig.responseLogprobs") === true)
    losses.cannot("generationConfig.responseLogprobs", "this model's provider tells no probabilities");
  const modalities = textsOf(member(config, "responseModalities"), "generationConfig.responseModalities");
  if (modalities.some((each) => each.toUpperCase() !== "TEXT"))
    losses.cannot("generationConfig.responseModalities", "this model's provider answers in text");
}

function systemOf(value: unknown): readonly TextBlock[] {
  if (value === undefined || value === null) return [];
  if (typeof value === "string") return value === "" ? [] : [{ type: "text", text: value }];
  return listOf(requiredObject(value, "systemInstruction").parts, "systemInstruction.parts").flatMap((part, i) => {
    const text = textOf(requiredObject(part, `systemInstruction.parts[${i}]`).text, `systemInstruction.parts[${i}].text`) ?? "";
    return text === "" ? [] : [{ type: "text" as const, text }];
  });
}

function toolsOf(body: JsonObject, losses: Losses): readonly Tool[] {
  return listOf(body.tools, "tools").flatMap((value, i) => {
    const field = `tools[${i}]`;
    const tool = requiredObject(value, field);
    const found: Tool[] = listOf(member(tool, "functionDeclarations"), `${field}.functionDeclarations`).map((each, n) =>
      functionTool(requiredObject(each, `${field}.functionDeclarations[${n}]`), `${field}.functionDeclarations[${n}]`),
    );
    for (const name of Object.keys(tool)) {
      const known = camel(name);
      if (known === "googleSearch" || known === "googleSearchRetrieval") found.push({ kind: "web_search" });
      else if (known !== "functionDeclarations") losses.cannot(`${field}.${name}`, "is a tool that only Google runs");
    }
    return found;
  });
}

const functionTool = (declaration: JsonObject, field: string): Tool => ({
  kind: "function",
  name: requiredText(declaration.name, `${field}.name`),
  description: textOf(declaration.description, `${field}.description`),
  schema:
    objectOf(member(declaration, "parametersJsonSchema"), `${field}.parametersJsonSchema`) ??
    lowerTypes(objectOf(declaration.parameters, `${field}.parameters`)),
  strict: null,
});

/** Google writes the types of its own schemas in capitals. */
function lowerTypes(schema: JsonObject | null): JsonObject | null {
  if (!schema) return null;
  return Object.fromEntries(
    Object.entries(schema).map(([name, value]): [string, unknown] => {
      if (name === "type" && typeof value === "string") return [name, value.toLowerCase()];
      if (name === "properties")
        return [name, Object.fromEntries(Object.entries(fieldsOf(value) ?? {}).map(([key, each]): [string, unknown] => [key, lowered(each)]))];
      return [name, name === "items" || name === "anyOf" ? lowered(value) : value];
    }),
  );
}

function lowered(value: unknown): unknown {
  if (Array.isArray(value)) return value.map((each: unknown) => lowered(each));
  const fields = fieldsOf(value);
  return fields ? lowerTypes(fields) : value;
}

/** How the model may call its tools, and which: a choice of several is a list that holds no others. */
function readChoice(config: JsonObject | null, tools: readonly Tool[]): Pick<ChatRequest, "toolChoice" | "tools"> {
  if (!config) return { toolChoice: null, tools };
  const mode = textOf(config.mode, "toolConfig.functionCallingConfig.mode")?.toUpperCase() ?? "AUTO";
  if (mode === "NONE") return { toolChoice: { kind: "none" }, tools };
  const allowed = textsOf(member(config, "allowedFunctionNames"), "toolConfig.functionCallingConfig.allowedFunctionNames");
  if (mode === "ANY" && allowed.length === 1) return { toolChoice: { kind: "tool", name: allowed[0] as string }, tools };
  const names = new Set(allowed);
  const callable = names.size === 0 ? tools : tools.filter((tool) => tool.kind === "web_search" || names.has(tool.name));
  return { toolChoice: { kind: mode === "ANY" ? "required" : "auto" }, tools: callable };
}

function formatOf(config: JsonObject): OutputFormat | null {
  const schema =
    objectOf(member(config, "responseJsonSchema"), "generationConfig.responseJsonSchema") ??
    lowerTypes(objectOf(member(config, "responseSchema"), "generationConfig.responseSchema"));
  if (schema) return { kind: "json_schema", name: "response", schema, strict: null, description: null };
  return textOf(member(config, "responseMimeType"), "generationConfig.responseMimeType") === "application/json" ? { kind: "json" } : null;
}

function reasoningOf(config: JsonObject | null): Reasoning | null {
  if (!config) return null;
  const field = "generationConfig.thinkingConfig";
  const wantsThoughts = flagOf(member(config, "includeThoughts"), `${field}.includeThoughts`);
  const named = textOf(member(config, "thinkingLevel"), `${field}.thinkingLevel`)?.toLowerCase() ?? null;
  if (named !== null) {
    if (!(REASONING_LEVELS as readonly string[]).includes(named))
      throw invalid(`${field}.thinkingLevel`, `must be one of ${REASONING_LEVELS.join(", ")}`);
    return { level: named as ReasoningLevel, budgetTokens: null, wantsThoughts };
  }
  const budgetTokens = numberOf(member(config, "thinkingBudget"), `${field}.thinkingBudget`);
  if (budgetTokens === null) return wantsThoughts === null ? null : { level: "auto", budgetTokens: null, wantsThoughts };
  return { level: levelOf(budgetTokens), budgetTokens, wantsThoughts };
}
