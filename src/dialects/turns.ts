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
  const waiting = new WaitingCalls();
  const names = new Map<string, string>();
  return turns.map((turn) => {
    if (turn.role === "assistant") {
      const blocks = turn.blocks.map((block) => {
        if (block.type !== "tool_call") return block;
        made += 1;
        const call = block.id === "" ? { ...block, id: madeId(block, made) } : block;
        names.set(call.id, call.name);
        waiting.add(call);
        return call;
      });
      return { role: "assistant", blocks };
    }
    const results = new Map<string, ToolResultBlock>();
    for (const block of turn.blocks) {
      if (block.type !== "tool_result") continue;
      // Without an id: the first call of that name that waits, and without a name the first that waits.
      const id = waiting.take(block) ?? (results.has(block.id) ? block.id : undefined);
      if (id === undefined) continue;
      results.set(id, { ...block, id, name: names.get(id) ?? block.name });
    }
    return { role: "user", blocks: [...results.values(), ...turn.blocks.filter(({ type }) => type !== "tool_result")] };
  });
}

/** Calls of the conversation so far that wait for their answer, in order. There may be tens of thousands: none is looked for one by one. */
class WaitingCalls {
  /** Names by id. */
  readonly #calls = new Map<string, string>();
  readonly #ids = new Map<string, Set<string>>();

  add({ id, name }: ToolCallBlock): void {
    this.#remove(id);
    this.#calls.set(id, name);
    const ids = this.#ids.get(name);
    if (ids) ids.add(id);
    else this.#ids.set(name, new Set([id]));
  }

  /** The id of the call that is answered so, which waits no longer. */
  take({ id, name }: ToolResultBlock): string | undefined {
    const own = id === "" ? (name === null ? this.#calls : this.#ids.get(name))?.keys().next().value : id;
    return own !== undefined && this.#remove(own) ? own : undefined;
  }

  #remove(id: string): boolean {
    const name = this.#calls.get(id);
    if (name === undefined) return false;
    this.#calls.delete(id);
    this.#ids.get(name)?.delete(id);
    return true;
  }
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
