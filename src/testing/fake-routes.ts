import { fakeAnthropic } from "./fake-anthropic.ts";
import type { FakeDialect, FakeRoute } from "./fake-dialect.ts";
import { fakeGemini } from "./fake-gemini.ts";
import { fakeKiro } from "./fake-kiro.ts";
import { fakeOpenai } from "./fake-openai.ts";
import { fakeResponses } from "./fake-responses.ts";

const FAKE_DIALECTS: readonly FakeDialect[] = [fakeOpenai, fakeResponses, fakeAnthropic, fakeGemini, fakeKiro];

export interface FoundRoute {
  readonly dialect: FakeDialect;
  readonly route: FakeRoute;
  /** Where the path says it. */
  readonly model: string | null;
}

/** The dialect and the operation of a path without its query; null = nobody's. */
export function fakeRouteOf(path: string): FoundRoute | null {
  for (const dialect of FAKE_DIALECTS) {
    for (const route of dialect.routes) {
      const found = route.path.exec(path);
      if (found) return { dialect, route, model: found[1] === undefined ? null : decoded(found[1]) };
    }
  }
  return null;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Whose answer a request expects that is no call: by its headers, and by where Google keeps its API. */
export function dialectOf(url: URL, headers: Readonly<Record<string, unknown>>): FakeDialect {
  if (headers["anthropic-version"] !== undefined) return fakeAnthropic;
  const isGoogles = /\/v1beta(?:\/|$)/.test(url.pathname) || headers["x-goog-api-key"] !== undefined || url.searchParams.has("key");
  return isGoogles ? fakeGemini : fakeOpenai;
}
