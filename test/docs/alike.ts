// Whether an answer is the one that a page shows. A page may leave out what does not matter (`…`), and cannot know times and ids.

/** Differs from run to run: only its kind is compared. */
const VOLATILE = new Set(["retry_after_ms", "request_id", "requestId", "created", "id", "resetsAt", "startedAt", "endedAt", "retryAfterMs"]);
const VOLATILE_HEADERS = new Set(["retry-after", "x-request-id", "date", "ratelimit"]);

const literal = (text: string): string => text.replaceAll(/[$()*+.?[\\\]^{|}]/g, String.raw`\$&`);

/** Whether a text is the one that is shown, where `…` stands for anything. */
export const textAlike = (shown: string, actual: string): boolean => new RegExp(`^${shown.split("…").map(literal).join("[\\s\\S]*")}$`).test(actual);

/** What is not as shown, one line each; what is not shown does not matter. */
function differences(shown: unknown, actual: unknown, path = ""): readonly string[] {
  const differs = [`${path === "" ? "the answer" : path}: the page shows ${JSON.stringify(shown)}, it is ${JSON.stringify(actual)}`];
  if (VOLATILE.has(path.split(".").at(-1) ?? "")) return typeof shown === typeof actual ? [] : differs;
  if (typeof shown === "string") return typeof actual === "string" && textAlike(shown, actual) ? [] : differs;
  if (Array.isArray(shown)) {
    if (!Array.isArray(actual) || actual.length !== shown.length) return differs;
    return shown.flatMap((item, index) => differences(item, (actual as readonly unknown[])[index], `${path}[${index}]`));
  }
  if (typeof shown === "object" && shown !== null) {
    if (typeof actual !== "object" || actual === null) return differs;
    const fields = actual as Readonly<Record<string, unknown>>;
    return Object.entries(shown).flatMap(([name, value]) => differences(value, fields[name], path === "" ? name : `${path}.${name}`));
  }
  return shown === actual ? [] : differs;
}

interface Parts {
  readonly status: string;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

/** A status line, headers, an empty line and a body, as `curl -i` prints them. */
export function httpParts(text: string): Parts {
  const [head = "", ...body] = text.replaceAll("\r\n", "\n").split("\n\n");
  const [first = "", ...lines] = head.trimEnd().split("\n");
  const headers = lines.map((line): [string, string] => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]);
  return { status: / (\d{3})/.exec(first)?.[1] ?? first, headers: new Map(headers), body: body.join("\n\n").trim() };
}

/** What is not as a page shows it: `http` fences show a head, `json` and `text` only what comes after it. */
export function answerDifferences(language: string, shown: string, actual: string): readonly string[] {
  const got = httpParts(actual);
  if (language === "text") return textAlike(shown.trim(), got.body) ? [] : [`the page shows\n${shown}\nit is\n${got.body}`];
  if (language === "json") return differences(JSON.parse(shown), parsed(got.body));
  const wanted = httpParts(shown);
  const status = wanted.status === got.status ? [] : [`status: the page shows ${wanted.status}, it is ${got.status}\n${got.body}`];
  const headers = [...wanted.headers].flatMap(([name, value]) => headerDifference(name, value, got.headers.get(name)));
  if (wanted.body === "" || wanted.body === "…") return [...status, ...headers];
  const isJson = /^[{[]/.test(wanted.body);
  if (isJson) return [...status, ...headers, ...differences(JSON.parse(wanted.body), parsed(got.body))];
  return [...status, ...headers, ...(textAlike(wanted.body, got.body) ? [] : [`the page shows\n${wanted.body}\nit is\n${got.body}`])];
}

function headerDifference(name: string, shown: string, actual: string | undefined): readonly string[] {
  if (actual === undefined) return [`${name}: the page shows ${shown}, there is none`];
  return VOLATILE_HEADERS.has(name) || textAlike(shown, actual) ? [] : [`${name}: the page shows ${shown}, it is ${actual}`];
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return body;
  }
}
