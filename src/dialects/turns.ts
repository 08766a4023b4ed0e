/** Puts what callers wrote into turns as every provider takes them: alternating, answers to calls first, each call with one answer. */
import { createHash } from "node:crypto";

import type { AssistantBlock, ToolCallBlock, ToolResultBlock, Turn, UserBlock } from "./message.ts";

export interface TurnBuilder {
  /** Adds to the turn that is open, or begins one. Empty texts are no blocks. */
  user(...blocks: readonly UserBlock[]): void;
  assistant(...blocks: readonly AssistantBlock[]): void;
  /**
   * Answers that nobody called for are dropped; of several to one call the last one counts; calls without an id have one that is the same for the same
   * conversation, so that prompt caches stay warm.
   */
  turns(): readonly Turn[];
}

type OpenTurn = { readonly role: "user"; readonly blocks: UserBlock[] } | { readonly role: "assistant"; readonly blocks: AssistantBlock[] };

const isEmpty = (block: UserBlock | AssistantBlock): boolean => block.type === "text" && block.text === "";

export function turnBuilder(): TurnBuilder {
  const open: OpenTurn[] = [];

  function blocksOf(role: OpenTurn["role"]): (UserBlock | AssistantBlock)[] {
    const last = open.at(-1);
    if (last?.role === role) return last.blocks;
    const blocks: never[] = [];
    open.push({ role, blocks });
    return blocks;
  }

  function add(role: OpenTurn["role"], blocks: readonly (UserBlock | AssistantBlock)[]): void {
    const shown = blocks.filter((block) => !isEmpty(block));
    if (shown.length > 0) blocksOf(role).push(...shown);
  }

  return {
    user: (...blocks) => add("user", blocks),
    assistant: (...blocks) => add("assistant", blocks),
    turns: () => merged(paired(open)),
  };
}

/** Ties answers to calls. */
function paired(turns: readonly OpenTurn[]): readonly OpenTurn[] {
  let made = 0;
  /** Calls of the conversation so far that wait for their answer, in order. */
  let waiting: ToolCallBlock[] = [];
  const names = new Map<string, string>();
  return turns.map((turn) => {
    if (turn.role === "assistant") {
      const blocks = turn.blocks.map((block) => {
        if (block.type !== "tool_call") return block;
        made += 1;
        const call = block.id === "" ? { ...block, id: madeId(block, made) } : block;
        names.set(call.id, call.name);
        waiting.push(call);
        return call;
      });
      return { role: "assistant", blocks };
    }
    const results = new Map<string, ToolResultBlock>();
    for (const block of turn.blocks) {
      if (block.type !== "tool_result") continue;
      // Without an id: the first call of that name that waits, and without a name the first that waits.
      const call = waiting.find(({ id, name }) => (block.id === "" ? block.name === null || name === block.name : id === block.id));
      const id = call?.id ?? (results.has(block.id) ? block.id : undefined);
      if (id === undefined) continue;
      waiting = waiting.filter((each) => each !== call);
      results.set(id, { ...block, id, name: names.get(id) ?? block.name });
    }
    return { role: "user", blocks: [...results.values(), ...turn.blocks.filter(({ type }) => type !== "tool_result")] };
  });
}

function madeId({ name, input }: ToolCallBlock, nth: number): string {
  return `call_${createHash("sha256").update(`${nth}\n${name}\n${input}`).digest("hex").slice(0, 24)}`;
}

/** Turns that have lost all their blocks go, and what they stood between is one turn. */
function merged(turns: readonly OpenTurn[]): readonly Turn[] {
  const all: OpenTurn[] = [];
  for (const turn of turns) {
    if (turn.blocks.length === 0) continue;
    const last = all.at(-1);
    if (last?.role === turn.role) (last.blocks as (UserBlock | AssistantBlock)[]).push(...turn.blocks);
    else all.push({ role: turn.role, blocks: [...turn.blocks] } as OpenTurn);
  }
  return all;
}
