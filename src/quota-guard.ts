import { quotaGuard as gateway } from "./guard.ts";
import { auth, budgets, credentials, fail2ban, idempotency, models, passthrough, proxy, scopes } from "./parts.ts";

/** `app.use("/llm", quotaGuard(options))`: the whole gateway as one middleware. Its parts are properties: `quotaGuard.budgets(…)`. */
export const quotaGuard = Object.assign(gateway, { auth, scopes, fail2ban, budgets, idempotency, credentials, proxy, passthrough, models });
