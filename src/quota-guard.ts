import { quotaGuard as gateway } from "./guard.ts";
import { auth, budgets, credentials, fail2ban, models, passthrough, proxy, scopes } from "./parts.ts";

/** `app.use("/llm", quotaGuard(options))`: the whole gateway as one middleware. Its parts are properties: `quotaGuard.budgets(…)`. */
export const quotaGuard = Object.assign(gateway, { auth, scopes, fail2ban, budgets, credentials, proxy, passthrough, models });
