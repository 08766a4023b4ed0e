/** The parts of Gemini's contents, read into blocks. */
import { requiredObject, requiredText, textOf } from "../fields.ts";
import type { Losses } from "../losses.ts";
import type { AssistantBlock, FileBlock, ImageBlock, JsonObject, MediaBlock, MediaSource, TextBlock, ToolResultBlock } from "../message.ts";
import { fieldsOf } from "../usage.ts";
import { member } from "./names.ts";

/** An image, a document, or sound and video, by what its media type says. */
function mediaBlock(source: MediaSource): ImageBlock | FileBlock | MediaBlock {
  const type = source.mediaType ?? "";
  if (type.startsWith("audio/") || type.startsWith("video/")) return { type: "media", source };
  if (type.startsWith("image/")) return { type: "image", source };
  return { type: "file", source, filename: null };
}

/** Null = the part is no medium. */
function mediumOf(part: JsonObject, field: string): ImageBlock | FileBlock | MediaBlock | null {
  const inline = fieldsOf(member(part, "inlineData"));
  if (inline) {
    const mediaType = textOf(member(inline, "mimeType"), `${field}.inlineData.mimeType`) ?? "application/octet-stream";
    return mediaBlock({ kind: "base64", mediaType, data: requiredText(inline.data, `${field}.inlineData.data`) });
  }
  const file = fieldsOf(member(part, "fileData"));
  if (!file) return null;
  const url = requiredText(member(file, "fileUri"), `${field}.fileData.fileUri`);
  return mediaBlock({ kind: "url", url, mediaType: textOf(member(file, "mimeType"), `${field}.fileData.mimeType`) });
}

function unknownPart(field: string, losses: Losses): readonly never[] {
  losses.cannot(field, "is a kind of part that this model's provider does not know");
  return [];
}

export function userPart(
  part: JsonObject,
  field: string,
  losses: Losses,
): readonly (TextBlock | ImageBlock | FileBlock | MediaBlock | ToolResultBlock)[] {
  // Thoughts are the model's.
  if (part.thought === true) return [];
  const text = textOf(part.text, `${field}.text`);
  if (text !== null) return text === "" ? [] : [{ type: "text", text }];
  const medium = mediumOf(part, field);
  if (medium) return [medium];
  const answer = fieldsOf(member(part, "functionResponse"));
  if (!answer) return unknownPart(field, losses);
  const name = textOf(answer.name, `${field}.functionResponse.name`);
  return [
    {
      type: "tool_result",
      id: textOf(answer.id, `${field}.functionResponse.id`) ?? "",
      name: name === "" ? null : name,
      content: [{ type: "text", text: resultText(answer.response) }],
      isError: fieldsOf(answer.response)?.error !== undefined,
    },
  ];
}

/** What a function answered: a text is told as it is, everything else as JSON. */
function resultText(response: unknown): string {
  const fields = fieldsOf(response);
  const keys = fields ? Object.keys(fields) : [];
  const only = keys.length === 1 && fields ? (fields.result ?? fields.output ?? fields.error) : undefined;
  const value = only ?? response ?? {};
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function modelPart(part: JsonObject, field: string, losses: Losses): readonly AssistantBlock[] {
  const signed = textOf(member(part, "thoughtSignature"), `${field}.thoughtSignature`);
  const signature = signed === null || signed === "" ? null : ({ family: "gemini", value: signed } as const);
  const call = fieldsOf(member(part, "functionCall"));
  if (call) {
    return [
      {
        type: "tool_call",
        id: textOf(call.id, `${field}.functionCall.id`) ?? "",
        name: requiredText(call.name, `${field}.functionCall.name`),
        input: JSON.stringify(requiredObject(call.args ?? {}, `${field}.functionCall.args`)),
        ...(signature ? { signature } : {}),
      },
    ];
  }
  const text = textOf(part.text, `${field}.text`);
  if (part.thought === true) return text || signature ? [{ type: "thinking", text: text ?? "", signature }] : [];
  if (text !== null || signature) {
    const said: AssistantBlock[] = text ? [{ type: "text", text }] : [];
    return signature ? [{ type: "thinking", text: "", signature }, ...said] : said;
  }
  const medium = mediumOf(part, field);
  if (medium) {
    if (medium.type !== "file") return [medium];
    losses.drops(field);
    return [];
  }
  // What Google's own tools did is told in the text.
  if (member(part, "executableCode") !== undefined || member(part, "codeExecutionResult") !== undefined) {
    losses.drops(field);
    return [];
  }
  return unknownPart(field, losses);
}
