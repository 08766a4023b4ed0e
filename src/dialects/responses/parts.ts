/** Parts of messages and of tools' results: from and to the neutral form. */
import { listOf, mediaFrom, requiredObject, requiredText, textOf } from "../fields.ts";
import type { Losses } from "../losses.ts";
import type { FileBlock, ImageBlock, JsonObject, MediaBlock, MediaSource, TextBlock } from "../message.ts";
import { urlOf } from "../openai/encode-request.ts";

export type Part = TextBlock | ImageBlock | FileBlock | MediaBlock;

const AUDIO_TYPES: ReadonlyMap<string, string> = new Map([
  ["mp3", "audio/mpeg"],
  ["wav", "audio/wav"],
]);
const AUDIO_FORMATS: Readonly<Record<string, string>> = { "audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/wav": "wav", "audio/x-wav": "wav" };
/** What a file without a word on it is. */
const FILE_TYPE = "application/pdf";

/** A text is one part; an empty one, or none, is no part. */
export function readParts(content: unknown, field: string, losses: Losses): readonly Part[] {
  if (typeof content === "string") return content === "" ? [] : [{ type: "text", text: content }];
  return listOf(content, field).flatMap((part, i) => readPart(requiredObject(part, `${field}[${i}]`), `${field}[${i}]`, losses));
}

/** What a tool answered: text, parts, parts written as text, nothing, or any other JSON. */
export function readResult(output: unknown, field: string, losses: Losses): readonly Part[] {
  if (output === undefined || output === null) return [];
  if (typeof output === "string") return readParts(writtenParts(output) ?? output, field, losses);
  return Array.isArray(output) ? readParts(output, field, losses) : [{ type: "text", text: JSON.stringify(output) }];
}

const KNOWN = new Set(["input_text", "output_text", "text", "input_image", "image_url"]);
const IMAGES = new Set(["input_image", "image_url"]);

/** A list of parts that a client wrote as text: only if there is an image in it, because text would be none the better for it. */
function writtenParts(text: string): readonly unknown[] | null {
  if (!/^\s*\[\s*\{/.test(text) || !/"(?:input_image|image_url)"/.test(text)) return null;
  try {
    const parts = JSON.parse(text) as readonly { readonly type?: string }[];
    return parts.every((part) => KNOWN.has(part?.type ?? "")) && parts.some((part) => IMAGES.has(part.type ?? "")) ? parts : null;
  } catch {
    return null;
  }
}

function readPart(part: JsonObject, field: string, losses: Losses): readonly Part[] {
  switch (part.type) {
    case "input_text":
    case "output_text":
    case "text":
    case "refusal": {
      const text = textOf(part.text ?? part.refusal, `${field}.text`) ?? "";
      return text === "" ? [] : [{ type: "text", text }];
    }
    case "input_image":
    case "image_url": {
      const given = part.image_url;
      const image =
        typeof given === "string" || given === undefined || given === null ? { ...part, url: given } : requiredObject(given, `${field}.image_url`);
      if ((image.url ?? null) === null) return stored(field, "image_url", losses);
      const detail = textOf("detail" in image ? image.detail : part.detail, `${field}.detail`);
      const source = mediaFrom(requiredText(image.url, `${field}.image_url`), `${field}.image_url`);
      return [{ type: "image", source, ...(detail === null ? {} : { detail }) }];
    }
    case "input_file": {
      const url = textOf(part.file_url, `${field}.file_url`);
      const data = textOf(part.file_data, `${field}.file_data`);
      if (url === null && data === null) return stored(field, "file_data", losses);
      return [{ type: "file", source: fileSource(url, data ?? "", field), filename: textOf(part.filename, `${field}.filename`) }];
    }
    case "input_audio": {
      const audio = requiredObject(part.input_audio, `${field}.input_audio`);
      const format = requiredText(audio.format, `${field}.input_audio.format`);
      const mediaType = AUDIO_TYPES.get(format) ?? `audio/${format}`;
      return [{ type: "media", source: { kind: "base64", mediaType, data: requiredText(audio.data, `${field}.input_audio.data`) } }];
    }
    default:
      losses.cannot(`${field}.type`, "is a kind of content that this model's provider does not know");
      return [];
  }
}

function fileSource(url: string | null, data: string, field: string): MediaSource {
  if (url !== null) return { kind: "url", url, mediaType: null };
  return data.startsWith("data:") ? mediaFrom(data, `${field}.file_data`) : { kind: "base64", mediaType: FILE_TYPE, data };
}

function stored(field: string, instead: string, losses: Losses): readonly Part[] {
  losses.cannot(`${field}.file_id`, `a file that is stored at one provider is not known to another; send its bytes as ${instead}`);
  return [];
}

/** A part as a user's message, or a tool's result, holds it. */
export function writePart(block: Part, losses: Losses): readonly JsonObject[] {
  switch (block.type) {
    case "text":
      return [{ type: "input_text", text: block.text }];
    case "image":
      return [{ type: "input_image", image_url: urlOf(block.source), ...(block.detail === undefined ? {} : { detail: block.detail }) }];
    case "file": {
      const { source, filename } = block;
      if (source.kind === "url") return [{ type: "input_file", file_url: source.url, ...(filename === null ? {} : { filename }) }];
      return [{ type: "input_file", filename: filename ?? "document.pdf", file_data: urlOf(source) }];
    }
    case "media": {
      const { source } = block;
      if (source.kind === "url" || source.mediaType.startsWith("video/")) {
        losses.cannot("messages", "this model takes no video, and sound only as bytes");
        return [];
      }
      const format = AUDIO_FORMATS[source.mediaType] ?? source.mediaType.replace(/^audio\//, "");
      return [{ type: "input_audio", input_audio: { data: source.data, format } }];
    }
  }
}
