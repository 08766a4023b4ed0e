import { LINGER_MS } from "../../../limits/kind.ts";
import { READ_META } from "./meta.ts";
import { redisScript } from "./script.ts";
import { TEN_YEARS_MS } from "./state.ts";

/**
 * KEYS: m, lock, states. ARGV: epoch, token of the lock, the time or -1 for the server's; then for each state when its state lapses (-1 = never) and the state as text, places as `c` and
 * (expiry, length, opId)…. Returns 1, or 0 and changes nothing when the right to rebuild is gone: what stands there by then are live counters.
 */
export const restoreScript = redisScript(
  "restore",
  `${READ_META}
local epoch, _, mark = readMeta(redis.call('GET', KEYS[1]) or '')
if epoch ~= ARGV[1] or mark ~= 'c' or redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
local now = tonumber(ARGV[3])
if now < 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
for i = 3, #KEYS do
  local lapsesAt, text = tonumber(ARGV[2 * i - 2]), ARGV[2 * i - 1]
  redis.call('DEL', KEYS[i])
  if lapsesAt < 0 or lapsesAt > now then
    if string.byte(text) == 99 then
      local latest, pos = 0, 2
      while pos <= #text do
        local expiresAt, opId
        expiresAt, opId, pos = struct.unpack('>dI2c0', text, pos)
        redis.call('ZADD', KEYS[i], expiresAt, opId)
        latest = math.max(latest, expiresAt)
      end
      redis.call('PEXPIRE', KEYS[i], math.max(latest - now, 0) + ${LINGER_MS})
    else
      redis.call('PSETEX', KEYS[i], lapsesAt < 0 and ${TEN_YEARS_MS} or lapsesAt - now, text)
    end
  end
end
return 1
`,
);
