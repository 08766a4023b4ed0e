/** Which proxies in front of the server are believed about a client's address, in the forms that Express's `trust proxy` takes. */
import { isIP, isIPv4 } from "node:net";
import { z } from "zod";
import { list } from "./values.ts";

const EXPECTED = "expected false, the number of proxies in front, or their addresses (an IP, a subnet such as 10.0.0.0/8, loopback, uniquelocal)";
const BELIEVES_ALL =
  "believes any X-Forwarded-For, so every client could name its own address; give the number of proxies in front, or their addresses";

const NAMED: ReadonlySet<string> = new Set(["loopback", "linklocal", "uniquelocal"]);

function isProxyAddress(text: string): boolean {
  if (NAMED.has(text)) return true;
  const [address = "", prefix, ...more] = text.split("/");
  const family = isIP(address);
  if (family === 0 || more.length > 0) return false;
  if (prefix === undefined || (family === 4 && isIPv4(prefix))) return true;
  return /^\d{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128);
}

/** `true` is Express's word for "everybody", and refused. */
export const trustProxySchema = z.union(
  [
    z.literal(false),
    z.number().int().min(0).max(1_000),
    // A variable holds a count as text.
    z
      .string()
      .refine((text) => /^\d{1,3}$/.test(text) || text.split(",").every((part) => isProxyAddress(part.trim())))
      .transform((text) => (/^\d{1,3}$/.test(text) ? Number(text) : text)),
    list(z.string().refine(isProxyAddress, "is not an IP address, a subnet such as 10.0.0.0/8, loopback, linklocal or uniquelocal")),
  ],
  { error: (issue) => (issue.input === true ? BELIEVES_ALL : EXPECTED) },
);
