import { LINGER_MS, MAX_AHEAD_MS, MAX_CAPACITY } from "../../../limits/kind.ts";

/** As in `limits/window`: a shift outlives every reservation. */
const SHIFT_LINGER_MS = 2 * 86_400_000;

/**
 * `limits/window` in Lua. Rule: a = limit, b = period, c = cell. State: kind, until, t, and by name sum, per, cell, shift, head, count, older. The newest
 * cell stands by itself, the older ones stay packed: a charge touches the head and what has left at the other end, so sixty cells cost little more than one.
 */
export const WINDOW = `
makers[119] = function()
  local floor, min = math.floor, math.min
  local window = {}

  local function leavesIn(v, index)
    return (index - v.shift + 1) * v.cell + v.per - now
  end

  local function addTo(s, amount)
    local index = floor(s[3] / s.cell) + s.shift
    local head = s.head >= index and s.head or index
    if amount == 0 then return head end
    local counted = min(amount, ${2 * MAX_CAPACITY} - s.sum)
    if s.head == head then
      s.count = s.count + counted
    else
      if s.head >= 0 then s.older = s.older .. pack('>dd', s.head, s.count) end
      s.head, s.count = head, counted
    end
    s.sum = s.sum + counted
    return head
  end

  local function takeFrom(s, index, amount)
    if s.head == index then
      local back = min(amount, s.count)
      s.sum = s.sum - back
      if back < s.count then
        s.count = s.count - back
      elseif #s.older > 0 then
        s.head, s.count = unpk('>dd', s.older, #s.older - 15)
        s.older = sub(s.older, 1, -17)
      else
        s.head, s.count = -1, 0
      end
      return
    end
    local low, high = 0, #s.older / 16 - 1
    while low <= high do
      local middle = floor((low + high) / 2)
      local found, count = unpk('>dd', s.older, middle * 16 + 1)
      if found == index then
        local back = min(amount, count)
        s.sum = s.sum - back
        local kept = back < count and pack('>dd', index, count - back) or ''
        s.older = sub(s.older, 1, middle * 16) .. kept .. sub(s.older, middle * 16 + 17)
        return
      end
      if found < index then low = middle + 1 else high = middle - 1 end
    end
  end

  function window.parse(text)
    local size = #text
    if size < 65 or (size - 65) % 16 ~= 0 then return BAD end
    local untilMs, t, sum, per, cell, shift, head, count = unpk('>dddddddd', text, 2)
    if not (untilMs == untilMs and t == t and sum == sum and per >= 1 and cell >= 1 and shift >= 0 and head >= -1 and count == count) then return BAD end
    return { 119, untilMs, t, sum = sum, per = per, cell = cell, shift = shift, head = head, count = count, older = sub(text, 66) }
  end

  function window.look(v)
    local s = v.state
    if not s then
      v.t, v.shift, v.per, v.cell, v.sum, v.from, v.head = now, 0, v.b, v.c, 0, 1, -1
      return v.a
    end
    local t, shift, ahead = now, s.shift, s[3] - now
    if ahead > ${MAX_AHEAD_MS} then
      shift = shift + floor(ahead / s.cell)
    elseif ahead > 0 then
      t = s[3]
    end
    local oldest = floor((t - s.per) / s.cell) + shift
    local sum, from, older = s.sum, 1, s.older
    while from <= #older do
      local index, count = unpk('>dd', older, from)
      if index >= oldest then break end
      sum = sum - count
      from = from + 16
    end
    local head = s.head
    if head >= 0 and head < oldest then
      sum = sum - s.count
      head = -1
    end
    v.t, v.shift, v.per, v.cell, v.sum, v.from, v.head = t, shift, s.per, s.cell, sum, from, head
    return v.a - sum
  end

  function window.wait(v, amount)
    local s, short = v.state, amount - (v.a - v.sum)
    if not s then return INF end
    for from = v.from, #s.older, 16 do
      local index, count = unpk('>dd', s.older, from)
      short = short - count
      if short <= 0 then return leavesIn(v, index) end
    end
    return v.head >= 0 and short <= s.count and leavesIn(v, v.head) or INF
  end

  function window.figures(v)
    return v.head < 0 and 0 or leavesIn(v, v.head), 0
  end

  function window.hasMoved(v)
    return v.state[3] - now > ${MAX_AHEAD_MS}
  end

  function window.keep(v)
    local s = v.state
    if v.from > 1 then s.older = sub(s.older, v.from) end
    if v.head < 0 then s.head, s.count = -1, 0 end
    s[3], s.sum, s.shift = v.t, v.sum, v.shift
  end

  function window.fresh(v)
    return { 119, 0, now, sum = 0, per = v.b, cell = v.c, shift = 0, head = -1, count = 0, older = '' }
  end

  function window.take(v, amount)
    if v.state then window.keep(v) else v.state = window.fresh(v) end
    local place = addTo(v.state, amount)
    v.sum, v.head = v.state.sum, v.state.head
    return place, v.a - v.sum, window.figures(v)
  end

  function window.settle(v, place, held, actual)
    window.look(v)
    window.keep(v)
    if actual < held then takeFrom(v.state, place, held - actual) else addTo(v.state, actual - held) end
    return true
  end

  function window.lapsesAt(s)
    return s[3] + s.per + 2 * s.cell + (s.shift == 0 and ${LINGER_MS} or ${SHIFT_LINGER_MS})
  end

  function window.text(s)
    return pack('>c1dddddddd', 'w', s[2], s[3], s.sum, s.per, s.cell, s.shift, s.head, s.count) .. s.older
  end

  return window
end
`;
