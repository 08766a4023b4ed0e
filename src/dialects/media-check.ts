/**
 * What a request may hold besides text, checked at the door: nothing is ever fetched by us, but what a provider is asked to fetch, or to read, should be what it
 * seems to be.
 */
import type { Call, DialectId } from "../core/call.ts";
import { invalid } from "./fields.ts";
import type { JsonObject } from "./message.ts";
import { fieldsOf } from "./usage.ts";

/** As many as the most generous provider takes. */
const MOST_MEDIA = 3_000;
/** Base64 characters of one medium: 50 MB, the most that any provider takes inline. */
const MOST_CHARS = Math.ceil((50 * 1024 * 1024 * 4) / 3);
const MEDIA_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$/i;
const URL_SCHEME = /^([a-z][a-z0-9+.-]*):/i;
const WEB: readonly string[] = ["https", "http", "data"];
/** Google's models read Google's buckets. */
const WEB_AND_BUCKETS: readonly string[] = [...WEB, "gs"];
const DATA_URL = /^data:([^;,]*)(?:;[^;,=]+=[^;,]*)*;base64,/i;
/** Deeper than any request's parts are. */
const MOST_DEPTH = 12;

const TURNS: Readonly<Record<DialectId, readonly string[]>> = {
  openai: ["messages"],
  responses: ["input"],
  anthropic: ["messages", "system"],
  gemini: ["contents", "systemInstruction", "system_instruction"],
};

/** Throws `body_invalid` that names the field. */
export function checkMedia({ dialect, operation, body }: Call): void {
  if (operation !== "chat" && operation !== "count_tokens") return;
  const checker = new Checker();
  for (const field of TURNS[dialect]) checker.value(body[field], field, 0);
}

/** Looks where dialects put media, and nowhere else: what tools were given and answered may look like anything. */
class Checker {
  #count = 0;

  value(value: unknown, field: string, depth: number): void {
    if (depth > MOST_DEPTH) return;
    if (Array.isArray(value)) {
      for (let i = 0; i < value.length; i += 1) {
        const part: unknown = value[i];
        if (typeof part === "object" && part !== null) this.#part(part as JsonObject, `${field}[${i}]`, depth);
      }
    } else if (typeof value === "object" && value !== null) this.#part(value as JsonObject, field, depth);
  }

  #part(part: JsonObject, field: string, depth: number): void {
    switch (part.type) {
      case "image_url":
      case "input_image":
      case "video_url":
        this.#address(
          part[part.type === "video_url" ? "video_url" : "image_url"],
          `${field}.${part.type === "video_url" ? "video_url" : "image_url"}`,
        );
        return;
      case "image":
      case "document":
        this.#source(fieldsOf(part.source), `${field}.source`, depth);
        return;
      case "input_file":
        this.#url(part.file_url, `${field}.file_url`, WEB);
        return;
      default:
    }
    for (const name of ["inlineData", "inline_data"]) this.#inline(fieldsOf(part[name]), `${field}.${name}`);
    for (const name of ["fileData", "file_data"]) {
      const file = fieldsOf(part[name]);
      if (!file) continue;
      const uri = file.fileUri === undefined ? "file_uri" : "fileUri";
      this.#url(file[uri], `${field}.${name}.${uri}`, WEB_AND_BUCKETS);
    }
    for (const name of ["content", "parts", "output"]) if (typeof part[name] === "object") this.value(part[name], `${field}.${name}`, depth + 1);
  }

  /** OpenAI's: a text, or an object with one. */
  #address(value: unknown, field: string): void {
    const object = fieldsOf(value);
    this.#url(object ? object.url : value, object ? `${field}.url` : field, WEB);
  }

  /** Anthropic's. */
  #source(source: JsonObject | null, field: string, depth: number): void {
    if (source?.type === "url") this.#url(source.url, `${field}.url`, WEB);
    else if (source?.type === "base64") this.#bytes(source.media_type, `${field}.media_type`, source.data, `${field}.data`);
    else if (source) this.value(source.content, `${field}.content`, depth + 1);
  }

  /** Gemini's. */
  #inline(inline: JsonObject | null, field: string): void {
    if (!inline) return;
    const type = inline.mimeType === undefined ? "mime_type" : "mimeType";
    this.#bytes(inline[type], `${field}.${type}`, inline.data, `${field}.data`);
  }

  #url(url: unknown, field: string, schemes: readonly string[]): void {
    // What is no text is the dialect's own business, or the provider's.
    if (typeof url !== "string") return;
    const scheme = URL_SCHEME.exec(url)?.[1]?.toLowerCase();
    if (scheme === undefined || !schemes.includes(scheme)) {
      throw invalid(field, "must be an https:, http: or data: URL; nothing is read from files, so send a local file's bytes in a data: URL");
    }
    if (scheme !== "data") return this.#add(field);
    const found = DATA_URL.exec(url.slice(0, 512));
    if (!found) throw invalid(field, "must name a media type and hold base64, such as data:image/png;base64,…");
    this.#bytes(found[1], field, { length: url.length - found[0].length }, field);
  }

  #bytes(type: unknown, typeField: string, data: unknown, field: string): void {
    if (typeof type !== "string" || !MEDIA_TYPE.test(type)) throw invalid(typeField, "must name a media type, such as image/png");
    const { length } = (data ?? {}) as { readonly length?: unknown };
    if (typeof length !== "number" || length === 0) throw invalid(field, "must hold the medium's bytes in base64");
    if (length > MOST_CHARS) throw invalid(field, "is larger than 50 MB; give the address of it");
    this.#add(field);
  }

  #add(field: string): void {
    this.#count += 1;
    if (this.#count > MOST_MEDIA) throw invalid(field, `is one of more than ${MOST_MEDIA} images and files; send fewer in one request`);
  }
}
