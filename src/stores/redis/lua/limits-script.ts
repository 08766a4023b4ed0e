import { BUCKET } from "./bucket.ts";
import { CALENDAR } from "./calendar.ts";
import { FINISH } from "./finish.ts";
import { PLACES } from "./places.ts";
import { RECORDS } from "./records.ts";
import { ANSWERS, RESERVE } from "./reserve.ts";
import { redisScript } from "./script.ts";
import { STATES } from "./state.ts";
import { VERB } from "./verbs.ts";
import { WINDOW } from "./window.ts";

/**
 * The operations of one call, in order, over states that are read once and written once. Each operation judges everything before it changes anything, and
 * nothing is written before the last one is judged: the server does not roll a script back.
 */
const RUN = `
local verbs = { [${VERB.reserve}] = reserve, [${VERB.peek}] = peek }
for _ = 1, ops do
  local verb, ri, size, from = unpk('>BI2I4', blob, at)
  at = from + size
  if not verbs[verb] then
    verbs[${VERB.settle}], verbs[${VERB.extend}], verbs[${VERB.lapse}], verbs[${VERB.expire}], verbs[${VERB.reported}] = finishing()
  end
  verbs[verb](ri, from, at - 1)
end

writeRecords()
writeStates()
return pack('>dB', now, isNews and 1 or 0) .. table.concat(answers)
`;

/**
 * Every verb of the limits, one or many in a call.
 * KEYS: m, x, texts (records and states), sorted sets (places). ARGV: the meta that this process knows, the operations as `pack` writes them.
 */
export const limitsScript = redisScript("limits", [STATES, BUCKET, WINDOW, CALENDAR, PLACES, RECORDS, ANSWERS, RESERVE, FINISH, RUN].join(""));
