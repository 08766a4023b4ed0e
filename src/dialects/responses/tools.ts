/** Tools of the Responses API: flat, and in groups that it calls namespaces. */
import { flagOf, invalid, listOf, objectOf, requiredObject, requiredText, textOf } from "../fields.ts";
import type { Losses } from "../losses.ts";
import type { FunctionTool, JsonObject, Tool, ToolChoice, ToolGroup } from "../message.ts";
import { withProperties } from "../openai/encode-request.ts";
import { fieldsOf } from "../usage.ts";

type Named = Extract<Tool, { readonly name: string }>;

/** The caller's tools, each under a name of its own. */
export interface ReadTools {
  readonly tools: readonly Tool[];
  /** The name of a tool that is called as a member of a group, or by itself (null). */
  nameOf(group: string | null, member: string): string;
}

const joined = (group: string, member: string): string => (group.endsWith("_") ? group + member : `${group}__${member}`);

export function readTools(value: unknown, losses: Losses): ReadTools {
  const tools: Tool[] = [];
  const taken = new Set<string>();
  /** The next number behind a name that is taken. */
  const numbers = new Map<string, number>();
  /** Names of grouped tools by both of their names. */
  const names = new Map<string, string>();

  function add(tool: JsonObject, field: string, group: Omit<ToolGroup, "member"> | null): void {
    const type = requiredText(tool.type, `${field}.type`);
    if (type === "namespace" && group === null) {
      const own = { name: requiredText(tool.name, `${field}.name`), description: textOf(tool.description, `${field}.description`) };
      listOf(tool.tools, `${field}.tools`).forEach((each, i) => {
        add(requiredObject(each, `${field}.tools[${i}]`), `${field}.tools[${i}]`, own);
      });
    } else if (type === "function" || type === "custom") {
      const member = requiredText(tool.name, `${field}.name`);
      const name = group ? unused(joined(group.name, member)) : member;
      taken.add(name);
      if (group) names.set(key(group.name, member), name);
      tools.push(named(tool, type, { name, ...(group ? { group: { ...group, member } } : {}) }, field));
    } else if (type.startsWith("web_search")) {
      tools.push({ kind: "web_search" });
      for (const option of Object.keys(tool)) if (option !== "type") losses.drops(`${field}.${option}`);
    } else losses.cannot(`${field}.type`, "is a tool that only OpenAI runs");
  }

  function unused(wanted: string): string {
    let name = wanted;
    for (let n = numbers.get(wanted) ?? 2; taken.has(name); n += 1) {
      name = `${wanted}_${n}`;
      numbers.set(wanted, n + 1);
    }
    return name;
  }

  const given = listOf(value, "tools").map((each, i) => requiredObject(each, `tools[${i}]`));
  // Names that stand by themselves stay as they are.
  for (const { name } of given) if (typeof name === "string") taken.add(name);
  given.forEach((tool, i) => add(tool, `tools[${i}]`, null));
  return {
    tools,
    nameOf: (group, member) => (group === null || group === "" ? member : (names.get(key(group, member)) ?? joined(group, member))),
  };
}

const key = (group: string, member: string): string => JSON.stringify([group, member]);

function named(tool: JsonObject, kind: "function" | "custom", name: Pick<Named, "name" | "group">, field: string): Named {
  const description = textOf(tool.description, `${field}.description`);
  if (kind === "custom") return { kind, ...name, description, format: objectOf(tool.format, `${field}.format`) };
  return { kind, ...name, description, schema: objectOf(tool.parameters, `${field}.parameters`), strict: flagOf(tool.strict, `${field}.strict`) };
}

export interface ReadChoice {
  readonly choice: ToolChoice | null;
  /** Those that may be called. */
  readonly tools: readonly Tool[];
}

/** How the model may call them. A choice of several is a list that holds no others. */
export function readChoice(value: unknown, { tools, nameOf }: ReadTools, losses: Losses): ReadChoice {
  if (value === undefined || value === null) return { choice: null, tools };
  if (value === "none" || value === "auto" || value === "required") return { choice: { kind: value }, tools };
  const given = requiredObject(value, "tool_choice");
  const nameIn = (fields: JsonObject, field: string): string =>
    nameOf(textOf(fields.namespace, `${field}.namespace`), requiredText(fields.name, `${field}.name`));
  switch (given.type) {
    case "function":
    case "custom":
      return { choice: { kind: "tool", name: nameIn(given, "tool_choice") }, tools };
    case "allowed_tools": {
      const allowed = listOf(given.tools, "tool_choice.tools").map((each, i) => requiredObject(each, `tool_choice.tools[${i}]`));
      const names = new Set(allowed.flatMap((each, i) => (each.name === undefined ? [] : [nameIn(each, `tool_choice.tools[${i}]`)])));
      const searches = allowed.some(({ type }) => typeof type === "string" && type.startsWith("web_search"));
      if (given.mode !== "auto" && given.mode !== "required") throw invalid("tool_choice.mode", "must be auto or required");
      return { choice: { kind: given.mode }, tools: tools.filter((tool) => (tool.kind === "web_search" ? searches : names.has(tool.name))) };
    }
    default:
      losses.cannot("tool_choice.type", "only functions and custom tools can be chosen at this model's provider");
      return { choice: null, tools };
  }
}

/** A tool as it is declared. */
export function toolItem(tool: Tool, name: (own: string) => string): JsonObject {
  if (tool.kind === "web_search") return { type: "web_search" };
  const { description } = tool;
  const said = description === null ? {} : { description };
  if (tool.kind === "custom") return { type: "custom", name: name(tool.name), ...said, ...(tool.format ? { format: flatFormat(tool.format) } : {}) };
  return { type: "function", name: name(tool.name), ...said, ...parameters(tool) };
}

// Without a word on it OpenAI is strict, and refuses schemas that are not made for it.
const parameters = ({ schema, strict }: FunctionTool): JsonObject => ({
  parameters: withProperties(schema ?? { type: "object" }),
  strict: strict ?? false,
});

/** Chat completions keep a grammar one level deeper. */
const flatFormat = (format: JsonObject): JsonObject => {
  const grammar = fieldsOf(format.grammar);
  return grammar ? { type: "grammar", ...grammar } : format;
};

/** Tools as their caller declared them, its groups restored. */
export function toolItems(tools: readonly Tool[]): readonly JsonObject[] {
  const groups = new Map<string, JsonObject[]>();
  return tools.flatMap((tool) => {
    const group = tool.kind === "web_search" ? undefined : tool.group;
    if (!group) return [toolItem(tool, (name) => name)];
    const item = toolItem(tool, () => group.member);
    const others = groups.get(group.name);
    if (others) {
      others.push(item);
      return [];
    }
    const members = [item];
    groups.set(group.name, members);
    return [{ type: "namespace", name: group.name, description: group.description ?? "", tools: members }];
  });
}
