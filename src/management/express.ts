import { createRequire } from "node:module";

type Express = typeof import("express");

/** Express is a peer and only the management routes need it: a gateway without them loads none. */
export const loadExpress = (): Express => createRequire(import.meta.url)("express") as Express;
