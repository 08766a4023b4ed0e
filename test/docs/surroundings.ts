// What snippets may take for given, as a reader has it: an app with a login, a client, some messages. `<!-- with: app, requireLogin -->` names them.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import express, { type NextFunction, type Request, type Response } from "express";
import OpenAI from "openai";

declare global {
  namespace Express {
    interface Request {
      user?: { readonly id: string; readonly org: string; readonly plan: "free" | "pro" };
    }
  }
}

export const app = express();

const PEOPLE = {
  alice: { id: "alice", org: "acme", plan: "free" },
  bob: { id: "bob", org: "acme", plan: "pro" },
} as const;

/** Who logs in by the header `x-login`; anybody else is turned away. */
export function requireLogin(req: Request, res: Response, next: NextFunction): void {
  const login = req.get("x-login");
  if (login !== "alice" && login !== "bob") return void res.status(401).json({ error: "please log in" });
  req.user = PEOPLE[login];
  next();
}

/** The official client, against the scripted provider. */
export const openai = new OpenAI();

export const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "Say in one line what a token bucket is." }];

/** A relay that tells what is left of a Claude subscription. Nobody waits for it to end. */
export const quotas = await new Promise<{ readonly url: string }>((resolve) => {
  const usage = JSON.stringify({ five_hour: { utilization: 37 }, seven_day: { utilization: 75 } });
  const relay = createServer((_req, res) => void res.end(usage));
  relay.listen(0, "127.0.0.1", () => resolve({ url: `http://127.0.0.1:${(relay.address() as AddressInfo).port}` }));
  relay.unref();
});
