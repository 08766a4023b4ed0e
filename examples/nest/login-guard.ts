import type { IncomingMessage } from "node:http";
import { Injectable, UnauthorizedException, type CanActivate, type ExecutionContext } from "@nestjs/common";

/** What the login leaves on a request. */
export interface LoggedIn extends IncomingMessage {
  user?: { readonly id: string };
}

/** Stands in for your login: a token says who it is. */
const USERS: Readonly<Record<string, string>> = { "token-of-alice": "alice", "token-of-bob": "bob" };

@Injectable()
export class LoginGuard implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const req = context.switchToHttp().getRequest<LoggedIn>();
    const id = USERS[req.headers.authorization?.replace("Bearer ", "") ?? ""];
    if (id === undefined) throw new UnauthorizedException("log in first");
    req.user = { id };
    return true;
  }
}
