import { READ_META } from "./meta.ts";
import { ANSWER as A } from "./verbs.ts";

/** Whether the caller knows what stands in `m`, and how answers are put together. */
export const ANSWERS = `
${READ_META}
local answers = {}
local isNews = values[1] ~= ARGV[1]
local stale, rebuilding = isNews, sub(ARGV[1], -1) == 'c'
if isNews and values[1] then
  local epoch, version, mark = readMeta(values[1])
  local known, knownVersion = readMeta(ARGV[1])
  if epoch and epoch == known and version == knownVersion then stale, rebuilding = false, mark == 'c' end
end

local function answer(text)
  answers[#answers + 1] = text
end

local FIGURES = setmetatable({}, {
  __index = function(forms, count)
    forms[count] = '>BBI2' .. string.rep('d', 3 * count)
    return forms[count]
  end,
})

local function standing(code, count, flag, figures)
  answer(pack(FIGURES[count], code, flag, count, unpack(figures, 1, 3 * count)))
end

local function tell(code)
  answers[#answers + 1] = string.char(code)
end

-- Finds the state of a view. Returns false after it has answered that there is none to be had.
local function settleState(v, i)
  local s = load(v.index)
  if s == BAD then
    answer(pack('>BI2', ${A.corrupt}, v.index))
    return false
  end
  if s and s[1] ~= v.kind then
    answer(pack('>BI2B', ${A.kind}, i - 1, s[1]))
    return false
  end
  v.state = s and not hasLapsed(s) and s
  return true
end

local figures = {}
local NONE = string.char(0, 0)

local function figure(i, v)
  local at = 3 * i
  figures[at - 2] = v.available
  figures[at - 1], figures[at] = v.how.figures(v)
end

-- Appends the shortfalls: their indexes and waits.
local function shortfalls(list)
  if #list == 0 then return answer(NONE) end
  local text = pack('>I2', #list / 2)
  for j = 1, #list, 2 do text = text .. pack('>I2d', list[j], list[j + 1]) end
  answer(text)
end
`;

/** Judges all limits, then charges all or none; and the same without charging. */
export const RESERVE = `
local function waitFor(v)
  if v.amount > v.a then return -1 end
  if v.available >= v.amount then return 0 end
  local wait = v.how.wait(v, v.amount)
  return wait == INF and -1 or wait
end

local function keepMove(v)
  if v.state and v.how.hasMoved(v) then
    v.how.keep(v)
    save(v.index, v.state)
  end
end

-- The answer to a reserve whose opId is taken: the standings are those of now, the decision is the one that was made.
local function repeated(record, count, from)
  -- The numbers of a limit may have changed between two deliveries of one reserve.
  local function isSame()
    local theirs, ours = from, record.from
    for _ = 1, count do
      local kind, _, unit, _, length, amount, _, _, _, at = unpk(CHARGE, blob, theirs)
      local kind2, _, unit2, _, length2, amount2, _, _, _, at2 = unpk(CHARGE, record.text, ours)
      if unit ~= unit2 or amount ~= amount2 then return false end
      if sub(blob, at, at + length - 1) ~= sub(record.text, at2, at2 + length2 - 1) then return false end
      theirs = at + length + (kind == 107 and 16 or 0)
      ours = at2 + length2 + (kind2 == 107 and 16 or 0)
    end
    return true
  end

  if record.closed or record.expired or now >= record.at then return tell(${A.closed}) end
  if record.count ~= count or not isSame() then return tell(${A.conflict}) end
  readCharges(blob, count, from)
  local short = {}
  for i = 1, count do
    local v = views[i]
    if not settleState(v, i) then return end
    v.available = v.how.look(v)
    figure(i, v)
    if record.skipped and record.skipped[i - 1] then
      short[#short + 1] = i - 1
      short[#short + 1] = waitFor(v)
    end
  end
  standing(${A.allowed}, count, 1, figures)
  shortfalls(short)
end

local function reserve(ri, from, to)
  local ttl, count, strict, pos = unpk('>dI2B', blob, from)
  if stale then return tell(${A.stale}) end
  if rebuilding and strict == 1 then return tell(${A.rebuilding}) end
  local record = find(ri)
  if record == BAD then return answer(pack('>BI2', ${A.corrupt}, ri)) end
  if record then return repeated(record, count, pos) end
  readCharges(blob, count, pos)

  local verdict = 0
  for i = 1, count do
    local v = views[i]
    if v.kind == 107 and (now < v.b or now >= v.f) then return tell(${A.skew}) end
    if not settleState(v, i) then return end
    local available = v.how.look(v)
    v.available = available
    if available < v.amount and verdict ~= 2 then verdict = v.flags % 2 == 1 and 2 or 1 end
  end

  local short = {}
  if verdict > 0 then
    for i = 1, count do
      local v = views[i]
      v.isShort = v.available < v.amount and (v.flags % 2 == 1) == (verdict == 2)
      if v.isShort then
        short[#short + 1] = i - 1
        short[#short + 1] = waitFor(v)
      end
    end
  end

  if verdict == 2 then
    for i = 1, count do figure(i, views[i]) end
    for i = 1, count do keepMove(views[i]) end
    standing(${A.limited}, count, 0, figures)
    return shortfalls(short)
  end

  local opId = sub(KEYS[ri], opIdAt)
  local expiresAt = now + ttl
  local places, skipped
  for i = 1, count do
    local v = views[i]
    if verdict == 1 and v.isShort then
      figure(i, v)
      keepMove(v)
      skipped = skipped or {}
      skipped[i - 1] = true
    else
      local place, available, x, y = v.how.take(v, v.amount, opId, expiresAt)
      if place ~= 0 then
        if not places then
          places = {}
          for j = 1, count do places[j] = 0 end
        end
        places[i] = place
      end
      if not isChanged[v.index] then save(v.index, v.state) end
      figures[3 * i - 2], figures[3 * i - 1], figures[3 * i] = available, x, y
    end
  end
  put(ri, { at = expiresAt, count = count, places = places, skipped = skipped, skips = #short / 2, text = blob, from = pos, to = to })
  score(opId, expiresAt)
  standing(${A.allowed}, count, 0, figures)
  shortfalls(short)
end

local function peek(_, from)
  local count, pos = unpk('>I2', blob, from)
  readCharges(blob, count, pos)
  local short = {}
  for i = 1, count do
    local v = views[i]
    if not settleState(v, i) then return end
    v.available = v.how.look(v)
    figure(i, v)
    if v.flags % 2 == 1 and v.available < v.amount then
      short[#short + 1] = i - 1
      short[#short + 1] = waitFor(v)
    end
  end
  standing(${A.standings}, count, 0, figures)
  shortfalls(short)
end
`;
