/** The providers that are built in. What is particular about each stands in a file of its own. */
import type { Credential } from "../core/credential.ts";
import { nearest } from "../core/nearest.ts";
import type { ProviderRow } from "../core/provider.ts";
import { anthropic } from "./providers/anthropic.ts";
import { antigravity, geminiCli } from "./providers/code-assist.ts";
import { codex } from "./providers/codex.ts";
import { iflow, kimi, qwen } from "./providers/coding-plans.ts";
import { copilot } from "./providers/copilot.ts";
import { gemini } from "./providers/gemini.ts";
import { kiro } from "./providers/kiro.ts";
import { openAi, openAiCompatible } from "./providers/openai.ts";
import { openAiFamily } from "./providers/openai-family.ts";
import { vertexAi } from "./providers/vertex-ai.ts";

const BUILT_IN: readonly ProviderRow[] = [
  openAi,
  openAiCompatible,
  anthropic,
  gemini,
  vertexAi,
  ...openAiFamily,
  qwen,
  kimi,
  iflow,
  codex,
  copilot,
  geminiCli,
  antigravity,
  kiro,
];

const ROWS: ReadonlyMap<string, ProviderRow> = new Map(BUILT_IN.map((row) => [row.id, Object.freeze(row)]));

/** The rows that are built in, in the order in which they are told. */
export const PROVIDER_IDS: readonly string[] = [...ROWS.keys()];

/**
 * A provider's path below the credential's base. A base that names a version itself (`https://open.example/api/paas/v4`) has it in place of the
 * path's own, and one that goes on as the path begins (`https://mine.openai.azure.com/openai/v1`, as Azure tells it) says that once.
 */
export function upstreamPath({ basePath }: Credential, path: string): string {
  if (VERSIONED_BASE.test(basePath) && VERSIONED_PATH.test(path)) return basePath + path.replace(VERSIONED_PATH, "");
  return basePath.endsWith(AZURE) && path.startsWith(`${AZURE}/`) ? basePath + path.slice(AZURE.length) : basePath + path;
}

/** What the paths of no other provider begin with. */
const AZURE = "/openai";
const VERSIONED_BASE = /\/v\d+(?:beta\d*)?$/;
const VERSIONED_PATH = /^\/v\d+(?:beta\d*)?(?=\/)/;

/** The built-in row of a provider. Throws an Error that names the nearest id when there is none. */
export function providerRow(id: string): ProviderRow {
  const row = ROWS.get(id);
  if (row) return row;
  const meant = nearest(id, PROVIDER_IDS);
  const advice = meant ? `did you mean "${meant}"?` : 'use "openai-compatible" with a base_url for any server that speaks the OpenAI API.';
  throw new Error(`unknown provider "${id.slice(0, 64)}"; ${advice} Known: ${PROVIDER_IDS.join(", ")}`);
}

/** What is particular about a credential's provider. */
export const rowOf = (credential: Credential): ProviderRow => credential.row ?? providerRow(credential.provider);
