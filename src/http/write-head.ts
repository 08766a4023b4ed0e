import type { OutgoingHttpHeader, ServerResponse } from "node:http";

/**
 * Begins a response: headers are alternating names and values, as Node's own `writeHead` takes them. Whoever has wrapped it may know fewer forms:
 * on-headers before 1.1, inside of many releases of express-session, compression and morgan, takes any list for one of pairs.
 */
export function writeHead(res: ServerResponse, status: number, headers: readonly string[]): void {
  if (!Object.hasOwn(res, "writeHead")) {
    res.writeHead(status, headers as string[]);
    return;
  }
  const byName = new Map<string, OutgoingHttpHeader>();
  for (let i = 0; i < headers.length; i += 2) {
    const [name, value] = [headers[i] as string, headers[i + 1] as string];
    const before = byName.get(name);
    byName.set(name, before === undefined ? value : [before as string | string[], value].flat());
  }
  for (const [name, value] of byName) res.setHeader(name, value);
  res.writeHead(status);
}
