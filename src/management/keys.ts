/** Keys of clients and organisations. A key is in one answer only: that of the request which made it. */
import type { Router } from "express";
import { z } from "zod";
import type { Admin } from "../core/admin.ts";
import { GuardError } from "../core/errors.ts";
import type { KeyView, MadeKey, NewKey } from "../core/key-admin.ts";
import type { OrgView } from "../core/org-admin.ts";
import { loadExpress } from "./express.ts";
import { parsedBody } from "./parsed-body.ts";

const iso = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());

const shownKey = ({ createdAt, rotatedAt, expiresAt, lastUsedAt, previousUntil, ...key }: KeyView): Record<string, unknown> => ({
  ...key,
  createdAt: iso(createdAt),
  rotatedAt: iso(rotatedAt),
  expiresAt: iso(expiresAt),
  lastUsedAt: iso(lastUsedAt),
  previousUntil: iso(previousUntil),
});

const shownMade = ({ key, view }: MadeKey): Record<string, unknown> => ({ key, ...shownKey(view) });

const shownOrg = ({ name, createdAt, disabledAt }: OrgView): Record<string, unknown> => ({
  name,
  createdAt: iso(createdAt),
  disabledAt: iso(disabledAt),
});

const Patch = z.strictObject({ disabled: z.boolean("must be true or false") });

/** `GET|POST keys`, `POST keys/:name/rotate`, `DELETE keys/:name`, `GET|POST orgs`, `PATCH orgs/:name`. */
export function keysRouter({ keys, orgs }: Pick<Admin, "keys" | "orgs">): Router {
  const express = loadExpress();
  const router = express.Router();
  const json = express.json({ limit: "100kb" });

  router.get("/keys", async (_req, res) => {
    res.json({ keys: (await keys.list()).map(shownKey) });
  });
  router.post("/keys", json, async (req, res) => {
    res.status(201).json(shownMade(await keys.create((req.body ?? {}) as NewKey)));
  });
  router.post("/keys/:name/rotate", json, async (req, res) => {
    res.status(201).json(shownMade(await keys.rotate(req.params.name, (req.body ?? {}) as { overlap?: string })));
  });
  router.delete("/keys/:name", async (req, res) => {
    if (!(await keys.revoke(req.params.name)))
      throw new GuardError("not_found", "there is no key of this name; GET keys (quotaguard keys list) lists them");
    res.json({ revoked: req.params.name });
  });

  router.get("/orgs", async (_req, res) => {
    res.json({ orgs: (await orgs.list()).map(shownOrg) });
  });
  router.post("/orgs", json, async (req, res) => {
    res.status(201).json(shownOrg(await orgs.create((req.body ?? {}) as { name: string })));
  });
  router.patch("/orgs/:name", json, async (req, res) => {
    const { name } = req.params;
    const { disabled } = parsedBody(Patch, req.body);
    await (disabled ? orgs.disable(name) : orgs.enable(name));
    const found = (await orgs.list()).find((org) => org.name === name);
    if (!found) throw new GuardError("not_found", "there is no organisation of this name; GET orgs lists them");
    res.json(shownOrg(found));
  });

  return router;
}
