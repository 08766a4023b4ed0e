import { LINGER_MS } from "../../../limits/kind.ts";

/** Absence would fill a bucket that never refills, so it is kept for as long as anybody may care. */
export const TEN_YEARS_MS = 315_360_000_000;

/** How much longer than needed a key lives: its time to live is not set anew with each write, and a clock that is put back a little finds it again. */
export const SLACK_MS = 60_000;

/*
 * A state as the server keeps it: one letter for its kind, then big-endian doubles. `until` is when the key itself goes; holds of `concurrency` are a
 * sorted set, opId by expiry.
 *   b  until t level carry capacity n d
 *   w  until t sum perMs cellMs shift headIndex headCount (index count)…   older cells, oldest first; headIndex -1 = no cell
 *   k  until t start end used prevStart prevUsed
 * In Lua a state is a table { kind, until, t, … } with the rest in the same order.
 */

/**
 * Reads states once per call and writes those that changed at its end. `KEYS`: m, x, then the keys of texts, then the keys of sorted sets. A key
 * that holds anything but a state is `BAD`, never absent: MGET says nil for another type as well, so what it does not find is asked for by EXISTS.
 *
 * Most calls need one kind of limit and one verb, so the others are made when they are first asked for.
 */
export const STATES = `
local call = redis.call
local pack, unpk = struct.pack, struct.unpack
local sub, byte, format = string.sub, string.byte, string.format
local INF = math.huge

local blob = ARGV[2]
local now, texts, ops, at = unpk('>dI2I2', blob)
if now < 0 then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local lastText = 2 + texts

local BAD = {}
local views = {}
local states, changed, isChanged = {}, {}, {}

-- Whole numbers as arguments: what the server makes of a number of Lua's takes three times as long.
local digits = setmetatable({}, {
  __index = function(known, number)
    local text = format('%d', number)
    known[number] = text
    return text
  end,
})

local makers = {}
local kinds = setmetatable({}, {
  __index = function(known, kind)
    known[kind] = makers[kind]()
    return known[kind]
  end,
})

-- Throws for another type, before anything is written.
call('ZCARD', KEYS[2])
local values = call('MGET', KEYS[1], unpack(KEYS, 3, lastText))
do
  local absent, n = {}, 0
  for i = 1, texts + 1 do
    if not values[i] then
      n = n + 1
      absent[n] = i == 1 and KEYS[1] or KEYS[i + 1]
    end
  end
  if n > 0 and call('EXISTS', unpack(absent)) > 0 then
    for i = 1, texts + 1 do
      if not values[i] then
        local type = call('TYPE', i == 1 and KEYS[1] or KEYS[i + 1]).ok
        if type ~= 'none' then values[i] = type == 'zset' and 'c' or '?' end
      end
    end
  end
end

local function parse(text)
  local letter = byte(text)
  if letter == 99 and #text == 1 then return { 99 } end
  return makers[letter] and letter ~= 99 and kinds[letter].parse(text) or BAD
end

-- The state of a key: the same table for all operations of the call, false where there is none, BAD where it cannot be read.
local function load(i)
  local state = states[i]
  if state ~= nil then return state end
  if i <= lastText then
    local text = values[i - 1]
    state = text and parse(text)
  else
    local live = redis.pcall('ZCOUNT', KEYS[i], '(' .. digits[now], '+inf')
    if type(live) == 'number' then
      state = { 99, live = live, over = {}, moved = 0 }
    else
      local text = redis.pcall('GET', KEYS[i])
      state = type(text) == 'string' and parse(text) or BAD
    end
  end
  states[i] = state
  return state
end

local function save(i, state)
  states[i] = state
  if not isChanged[i] then
    isChanged[i] = true
    changed[#changed + 1] = i
  end
end

-- Places have no time of their own: what has run out does not count anyway.
local function hasLapsed(state)
  return state[3] and now - state[3] >= ${LINGER_MS} and now >= kinds[state[1]].lapsesAt(state)
end

local function writeStates()
  for j = 1, #changed do
    local i = changed[j]
    local state = states[i]
    local kind = kinds[state[1]]
    if kind.write then
      kind.write(KEYS[i], state)
    else
      local lapsesAt = kind.lapsesAt(state)
      if lapsesAt == INF then lapsesAt = now + ${TEN_YEARS_MS} - ${SLACK_MS} end
      if lapsesAt <= state[2] then
        call('SET', KEYS[i], kind.text(state), 'KEEPTTL')
      else
        local ttl = lapsesAt - now + ${SLACK_MS}
        state[2] = now + ttl
        call('PSETEX', KEYS[i], digits[ttl], kind.text(state))
      end
    end
  end
end
`;
