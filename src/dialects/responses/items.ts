/** Output items: what an answer consists of, as its caller gets it. */
import type { AnswerOptions } from "../codec.ts";
import { restoredInput } from "../custom-tools.ts";
import type { AssistantBlock, BlockStart, ImageBlock, JsonObject, Signature, StopReason } from "../message.ts";
import { isCut } from "./response-body.ts";
import { sealed } from "./seals.ts";

export type ItemStatus = "in_progress" | "completed" | "incomplete";

export const messageItem = (id: string, status: ItemStatus, content: readonly JsonObject[]): JsonObject => ({
  id,
  type: "message",
  status,
  role: "assistant",
  content,
});

export const textPart = (text: string): JsonObject => ({ type: "output_text", text, annotations: [], logprobs: [] });

/** `content` = sealed; null = nobody vouches for them. */
export const reasoningItem = (id: string, text: string, content: string | null): JsonObject => ({
  id,
  type: "reasoning",
  summary: text === "" ? [] : [summaryPart(text)],
  ...(content === null ? {} : { encrypted_content: content }),
});

export const summaryPart = (text: string): JsonObject => ({ type: "summary_text", text });

export const thoughtsSealed = (signature: Signature | null): string | null => signature && sealed(signature, "thinking");

/** What signs a call stands before it, as thoughts that are not shown. */
export const callSealed = (signature: Signature | undefined): string | null =>
  signature && signature.family !== "openai" ? sealed(signature, "call") : null;

export const imageItem = (id: string, { source }: ImageBlock): JsonObject | null =>
  source.kind === "base64" ? { id, type: "image_generation_call", status: "completed", result: source.data } : null;

/** A call as its caller declared the tool. */
export interface CallShape {
  readonly isCustom: boolean;
  /** The model's words have to be taken out of the JSON that stands for them. */
  readonly isFlattened: boolean;
  item(id: string, status: ItemStatus, input: string): JsonObject;
}

/** How calls of the caller's tools are told. */
export function callShapes({ request }: AnswerOptions): (call: Extract<BlockStart, { type: "tool_call" }>) => CallShape {
  const tools = new Map(request.tools.flatMap((tool) => (tool.kind === "web_search" ? [] : [[tool.name, tool] as const])));
  return (call) => {
    const tool = tools.get(call.name);
    const isFlattened = tool?.kind === "custom" && call.isCustom !== true;
    const isCustom = isFlattened || call.isCustom === true;
    const named = tool?.group ? { name: tool.group.member, namespace: tool.group.name } : { name: call.name };
    return {
      isCustom,
      isFlattened,
      item: (id, status, input) => ({
        id,
        type: isCustom ? "custom_tool_call" : "function_call",
        status,
        call_id: call.id,
        ...named,
        ...(isCustom ? { input } : { arguments: input }),
      }),
    };
  };
}

/** What a call's whole input is told as. */
export function toldInput({ isCustom, isFlattened }: CallShape, input: string): string {
  if (isCustom) return isFlattened ? restoredInput(input) : input;
  return input === "" ? "{}" : input;
}

/** The items of a whole answer. The last one of an answer that was cut is incomplete. */
export function itemsOf(blocks: readonly AssistantBlock[], stop: StopReason, options: AnswerOptions): readonly JsonObject[] {
  const shapeOf = callShapes(options);
  const { nextId } = options;
  const items = blocks.flatMap((block, i): readonly JsonObject[] => {
    const status = isCut(stop) && i === blocks.length - 1 ? "incomplete" : "completed";
    switch (block.type) {
      case "text":
        return [messageItem(`msg_${nextId()}`, status, [textPart(block.text)])];
      case "thinking":
        return [reasoningItem(`rs_${nextId()}`, block.text, thoughtsSealed(block.signature))];
      case "redacted_thinking":
        return [reasoningItem(`rs_${nextId()}`, "", sealed(block.signature, "redacted"))];
      case "tool_call": {
        const shape = shapeOf(block);
        const call = shape.item(callItemId(shape, nextId), status, toldInput(shape, block.input));
        const content = callSealed(block.signature);
        return content === null ? [call] : [reasoningItem(`rs_${nextId()}`, "", content), call];
      }
      case "image": {
        const item = imageItem(`ig_${nextId()}`, block);
        return item ? [item] : [];
      }
      // An answer holds no sound here.
      case "media":
        return [];
    }
  });
  return items;
}

export const callItemId = ({ isCustom }: CallShape, nextId: () => string): string => `${isCustom ? "ctc" : "fc"}_${nextId()}`;
