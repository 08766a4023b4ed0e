import { ANSWER as A } from "./verbs.ts";

/** How long a reported expiry waits for the word that it arrived, before it is reported once more. */
const REPORT_AGAIN_MS = 60_000;

/** Everything that begins with a record: it says what was charged where, so neither definitions nor the process that reserved are needed. */
export const FINISH = `
local function finishing()
  -- Where the keys of this call stand; made when a record first asks.
  local indexes
  local stateKeys = sub(KEYS[1], 1, -2) .. 's:'
  local function indexOf(key)
    if not indexes then
      indexes = {}
      for i = 3, #KEYS do indexes[KEYS[i]] = i end
    end
    return indexes[stateKeys .. key]
  end

  local function needs(record)
    answer(pack('>BI2', ${A.needs}, record.count) .. chargesOf(record))
  end

  -- Loads what a record's charges need. False = answered: a key is not declared or not readable. 'spent' is nil where only places matter.
  local function gather(record, spent)
    readCharges(record.text, record.count, record.from)
    for i = 1, record.count do
      local v = views[i]
      v.spent = nil
      if not (record.skipped and record.skipped[i - 1]) then
        if v.kind == 99 then
          v.spent = 0
        elseif spent then
          local actual = spent[v.unit + 1]
          if actual >= 0 and actual ~= v.amount then v.spent = actual end
        end
      end
      if v.spent then
        v.index = indexOf(sub(record.text, v.keyAt, v.keyEnd))
        if not v.index or (v.kind == 99) ~= (v.index > lastText) then
          needs(record)
          return false
        end
        v.state = load(v.index)
        if v.state == BAD then
          answer(pack('>BI2', ${A.corrupt}, v.index))
          return false
        end
      end
    end
    return true
  end

  -- Frees the places that a record holds (false), or prolongs them, if they are still there.
  local function movePlaces(record, opId, expiresAt)
    for i = 1, record.count do
      local v = views[i]
      if v.kind == 99 and v.spent and v.state[1] == 99 and v.how.holdOf(v.index, v.state, opId) then v.how.put(v.index, v.state, opId, expiresAt) end
    end
  end

  local function correct(v, place)
    local kind, s = v.how, v.state
    -- Another kind of limit has the key by now: what was charged is gone with its counter.
    if s and s[1] ~= v.kind then return end
    if s and not hasLapsed(s) then
      if kind.settle(v, place, v.amount, v.spent) then save(v.index, s) end
    elseif v.spent > v.amount then
      v.state = kind.fresh(v)
      kind.settle(v, place, v.amount, v.spent)
      save(v.index, v.state)
    end
  end

  local function settle(ri, from)
    local record = find(ri)
    if record == BAD then return answer(pack('>BI2', ${A.corrupt}, ri)) end
    if record and record.closed then return tell(${A.done}) end
    local opId = sub(KEYS[ri], opIdAt)
    if record then
      if not gather(record, { unpk('>dddddd', blob, from) }) then return end
      for i = 1, record.count do
        local v = views[i]
        if v.spent and v.kind ~= 99 then correct(v, record.places and record.places[i] or 0) end
      end
      movePlaces(record, opId, false)
      score(opId, false)
    end
    close(ri)
    if not record then return tell(${A.unknown}) end
    tell((record.expired or now >= record.at) and ${A.late} or ${A.applied})
  end

  local function isOpen(record)
    return record and not record.closed and not record.expired and now < record.at
  end

  -- The same reservation with another end.
  local function renew(ri, record, at, expired)
    put(ri, { at = at, expired = expired, count = record.count, places = record.places, skipped = record.skipped, skips = record.skips, text = record.text, from = record.from, to = record.to })
  end

  local function extend(ri, from)
    local record = find(ri)
    if record == BAD then return answer(pack('>BI2', ${A.corrupt}, ri)) end
    if not isOpen(record) then return tell(${A.no}) end
    local expiresAt = now + unpk('>d', blob, from)
    if expiresAt > record.at then
      if not gather(record) then return end
      local opId = sub(KEYS[ri], opIdAt)
      renew(ri, record, expiresAt, false)
      score(opId, expiresAt)
      movePlaces(record, opId, expiresAt)
    end
    tell(${A.yes})
  end

  local function lapse(ri)
    local record = find(ri)
    if record == BAD then return answer(pack('>BI2', ${A.corrupt}, ri)) end
    if not record then
      close(ri)
      return tell(${A.unknown})
    end
    -- A hold that has run out already is the sweeper's to report.
    if not isOpen(record) then return tell(${A.done}) end
    if not gather(record) then return end
    local opId = sub(KEYS[ri], opIdAt)
    renew(ri, record, now, true)
    score(opId, false)
    movePlaces(record, opId, false)
    tell(${A.applied})
  end

  -- A member of x that is due: reports the hold and looks again later, until the word comes that the report arrived.
  local function expire(ri)
    local record = find(ri)
    if record == BAD then return answer(pack('>BI2', ${A.corrupt}, ri)) end
    local opId = sub(KEYS[ri], opIdAt)
    if not record or record.closed or isOpen(record) then
      score(opId, isOpen(record) and record.at or false)
      return tell(${A.no})
    end
    local due = scoreOf(opId)
    -- Another sweeper was here in between.
    if not due or due > now then return tell(${A.no}) end
    if not record.expired then
      if not gather(record) then return end
      renew(ri, record, record.at, true)
      movePlaces(record, opId, false)
    end
    score(opId, now + ${REPORT_AGAIN_MS})
    local skipped = {}
    for i = 0, record.count - 1 do
      if record.skipped and record.skipped[i] then skipped[#skipped + 1] = pack('>I2', i) end
    end
    answer(pack('>BI2', ${A.expired}, record.count) .. chargesOf(record) .. pack('>I2', #skipped) .. table.concat(skipped))
  end

  local function reported(ri)
    local record = find(ri)
    if record == BAD or not record or record.closed or record.expired then score(sub(KEYS[ri], opIdAt), false) end
    tell(${A.yes})
  end

  return settle, extend, lapse, expire, reported
end
`;
