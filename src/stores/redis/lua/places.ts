import { LINGER_MS } from "../../../limits/kind.ts";

/** As in `limits/concurrency`. */
const LOOK_AGAIN_MS = 1000;

/**
 * `limits/concurrency` in Lua. Rule: a = limit. The sorted set is read where it stands and written at the end of the call: `over` is what the
 * operations of this call have made of its members (an expiry, or false = gone).
 */
export const PLACES = `
makers[99] = function()
  local places = {}

  -- When a hold runs out; nil or false = there is none.
  function places.holdOf(i, state, opId)
    local expiresAt = state.over[opId]
    if expiresAt ~= nil then return expiresAt end
    local score = call('ZSCORE', KEYS[i], opId)
    return score and tonumber(score)
  end

  function places.put(i, state, opId, expiresAt)
    local before = places.holdOf(i, state, opId)
    if before and before > now then state.live = state.live - 1 end
    if expiresAt and expiresAt > now then state.live = state.live + 1 end
    if state.over[opId] == nil then state.moved = state.moved + 1 end
    state.over[opId] = expiresAt
    save(i, state)
  end

  function places.look(v)
    return v.a - v.state.live
  end

  function places.wait(v)
    local s, wait = v.state, ${LOOK_AGAIN_MS}
    local held = call('ZRANGEBYSCORE', KEYS[v.index], '(' .. digits[now], digits[now + wait], 'WITHSCORES', 'LIMIT', 0, s.moved + 1)
    for j = 1, #held, 2 do
      if s.over[held[j]] == nil then wait = math.min(wait, tonumber(held[j + 1]) - now) end
    end
    for _, expiresAt in pairs(s.over) do
      if expiresAt and expiresAt > now then wait = math.min(wait, expiresAt - now) end
    end
    return wait
  end

  function places.figures(v)
    return v.state.live == 0 and 0 or -1, 0
  end

  function places.hasMoved()
    return false
  end

  function places.take(v, _, opId, expiresAt)
    v.state.prune = true
    places.put(v.index, v.state, opId, expiresAt)
    return 0, places.look(v), places.figures(v)
  end

  -- What is added comes first: a set that were empty in between would lose its time to live.
  function places.write(key, s)
    local added, gone, latest = {}, {}, nil
    for opId, expiresAt in pairs(s.over) do
      if expiresAt then
        added[#added + 1] = digits[expiresAt]
        added[#added + 1] = opId
        latest = math.max(latest or expiresAt, expiresAt)
      else
        gone[#gone + 1] = opId
      end
    end
    if latest then call('ZADD', key, unpack(added)) end
    if #gone > 0 then call('ZREM', key, unpack(gone)) end
    if s.prune then call('ZREMRANGEBYSCORE', key, '-inf', digits[now]) end
    if latest then
      local ttl = digits[math.max(latest - now, 0) + ${LINGER_MS}]
      if call('PEXPIRE', key, ttl, 'NX') == 0 then call('PEXPIRE', key, ttl, 'GT') end
    end
  end

  return places
end
`;
