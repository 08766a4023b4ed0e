/** What answers tell about files and batches: which ones there are, and which ones are no more. */
import { fieldsOf } from "../../dialects/usage.ts";
import type { LaneOperation, Resource } from "./operations.ts";
import type { Ownership, Tenant, Thing } from "./ownership.ts";

type Fields = Readonly<Record<string, unknown>>;

/** Whether a good answer must be read before the client gets it: nobody may use an id before we know whose it is. */
export function tellsOfThings(method: string, { kind, resource }: LaneOperation): boolean {
  if (kind === "create") return true;
  return kind === "item" && method !== "HEAD" && (resource === "batches" || method === "DELETE");
}

/** The files that a batch has made so far. */
export function filesOf(resource: Resource, item: Fields): readonly Thing[] {
  if (resource !== "batches") return [];
  return [item.output_file_id, item.error_file_id].flatMap((id) => (typeof id === "string" ? [{ resource: "files", id } as const] : []));
}

function objectIn(body: Buffer): Fields | null {
  try {
    return fieldsOf(JSON.parse(body.toString()));
  } catch {
    return null;
  }
}

/** Notes what a good answer to such an operation tells. `credential` is the one that answered. */
export async function learn(
  owners: Ownership,
  method: string,
  { kind, resource, id }: LaneOperation,
  tenant: Tenant,
  credential: string,
  body: Buffer,
): Promise<void> {
  if (resource === null) return;
  if (method === "DELETE" && id !== null) {
    await owners.gone(credential, { resource, id });
    return;
  }
  const item = objectIn(body);
  if (typeof item?.id !== "string") return;
  const thing: Thing = { resource, id: item.id };
  if (kind === "create") await owners.made(tenant.name, credential, thing);
  // What was made past the gateway stays the master key's.
  const owner = await owners.ownerOf(credential, thing);
  if (owner !== null) for (const file of filesOf(resource, item)) await owners.named(owner, credential, file);
}
