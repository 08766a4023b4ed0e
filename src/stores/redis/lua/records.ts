import { LATE_MS, TOMBSTONE_MS } from "../../../limits/backend.ts";
import { SLACK_MS } from "./state.ts";

/*
 * A reservation as the server keeps it: `h` held, `e` expired and reported, `c` closed (a tombstone).
 *   c  until
 *   h, e  expiresAt, count of charges, 1 if places follow, count of skipped; the charges as they were sent; places; indexes of the skipped
 * A charge: kind, flags (1 enforce, 2 strict), unit, index of its key in the call (of no meaning later), length of the key; amount and three numbers of
 * the rule; the key; two more numbers of a calendar rule.
 */

/** Reservations by opId, `x` (open ones by expiry), and the charges in them. */
export const RECORDS = `
local records, touched, isTouched = {}, {}, {}
local scores, scored = {}, {}
local opIdAt = #KEYS[1] + 2
local RECORD = '>dI2BI2'
local CHARGE = '>BBBI2I2dddd'

-- Reads the charges into the views and returns the position behind them.
local function readCharges(text, count, pos)
  for i = 1, count do
    local v = views[i]
    if not v then
      v = {}
      views[i] = v
    end
    local kind, size
    kind, v.flags, v.unit, v.index, size, v.amount, v.a, v.b, v.c, pos = unpk(CHARGE, text, pos)
    if v.kind ~= kind then v.kind, v.how = kind, kinds[kind] end
    v.keyAt = pos
    pos = pos + size
    v.keyEnd = pos - 1
    if kind == 99 then v.index = v.index + lastText end
    if kind == 107 then v.e, v.f, pos = unpk('>dd', text, pos) end
  end
  return pos
end

local function parseRecord(text)
  local letter, size = byte(text), #text
  if letter == 99 and size == 9 then
    return { closed = true, at = unpk('>d', text, 2) }
  elseif (letter == 104 or letter == 101) and size >= 14 then
    local expiresAt, count, placed, skips = unpk(RECORD, text, 2)
    local tail = placed * 8 * count + 2 * skips
    if placed > 1 or size < 14 + 39 * count + tail then return BAD end
    local places, skipped
    if placed == 1 then places = { unpk('>' .. string.rep('d', count), text, size - tail + 1) } end
    if skips > 0 then
      skipped = {}
      for i = 1, skips do skipped[unpk('>I2', text, size - 2 * (skips - i + 1) + 1)] = true end
    end
    return { at = expiresAt, expired = letter == 101, count = count, places = places, skipped = skipped, skips = skips, text = text, from = 15, to = size - tail }
  end
  return BAD
end

-- What an opId holds: a record, false, or BAD.
local function find(i)
  local record = records[i]
  if record == nil then
    local text = values[i - 1]
    record = text and parseRecord(text)
    records[i] = record
  end
  if not record or record == BAD then return record end
  if record.closed then return now < record.at and record end
  return now < record.at + ${LATE_MS} and record
end

local function put(i, record)
  records[i] = record
  if not isTouched[i] then
    isTouched[i] = true
    touched[#touched + 1] = i
  end
end

local function close(i)
  put(i, { closed = true, at = now + ${TOMBSTONE_MS} })
end

-- When an opId falls due in x; false = not there.
local function score(opId, due)
  if scores[opId] == nil then scored[#scored + 1] = opId end
  scores[opId] = due
end

local function scoreOf(opId)
  if scores[opId] ~= nil then return scores[opId] end
  local due = call('ZSCORE', KEYS[2], opId)
  return due and tonumber(due)
end

-- A record does not copy its charges before it has to: the server digests every byte of a text that is made.
local function chargesOf(record)
  return sub(record.text, record.from, record.to)
end

local function recordText(record)
  if record.closed then return 'c' .. pack('>d', record.at) end
  local head = (record.expired and 'e' or 'h') .. pack(RECORD, record.at, record.count, record.places and 1 or 0, record.skips)
  if not record.places and not record.skipped then return head .. chargesOf(record) end
  local places, skipped = '', ''
  if record.places then places = pack('>' .. string.rep('d', record.count), unpack(record.places)) end
  if record.skipped then
    for i in pairs(record.skipped) do skipped = skipped .. pack('>I2', i) end
  end
  return head .. chargesOf(record) .. places .. skipped
end

local function writeRecords()
  local gone, due = {}, {}
  for j = 1, #scored do
    local at = scores[scored[j]]
    if at then
      due[#due + 1] = digits[at]
      due[#due + 1] = scored[j]
    else
      gone[#gone + 1] = scored[j]
    end
  end
  -- What is removed comes first: a server that is out of memory lets a script go on that has begun with this, so holds can still be finished.
  if #gone > 0 then call('ZREM', KEYS[2], unpack(gone)) end
  if #due > 0 then call('ZADD', KEYS[2], unpack(due)) end
  for j = 1, #touched do
    local i = touched[j]
    local record = records[i]
    call('PSETEX', KEYS[i], digits[record.at - now + (record.closed and 0 or ${LATE_MS + SLACK_MS})], recordText(record))
  end
end
`;
