import { MAX_CAPACITY } from "../../../limits/kind.ts";

const DAY_MS = 86_400_000;

/**
 * `limits/calendar` in Lua. Rule: a = limit, b, c, e, f = the bounds. State: kind, until, t, and by name start, stop, used, prevStart, prevUsed.
 */
export const CALENDAR = `
makers[107] = function()
  local calendar = {}

  local function windowAt(v)
    if now < v.c then return v.b, v.c end
    if now < v.e then return v.c, v.e end
    if now < v.f then return v.e, v.f end
    local length = v.f - v.e
    local start = v.f + math.floor((now - v.f) / length) * length
    return start, start + length
  end

  function calendar.parse(text)
    if #text ~= 57 then return BAD end
    local untilMs, t, start, stop, used, prevStart, prevUsed = unpk('>ddddddd', text, 2)
    if not (untilMs == untilMs and t == t and start < stop and used >= 0 and prevStart == prevStart and prevUsed >= 0) then return BAD end
    return { 107, untilMs, t, start = start, stop = stop, used = used, prevStart = prevStart, prevUsed = prevUsed }
  end

  function calendar.look(v)
    local s = v.state
    if s and now < s.stop then
      v.stop, v.used = s.stop, s.used
    else
      v.start, v.stop = windowAt(v)
      v.used = 0
    end
    return v.a - v.used
  end

  function calendar.wait(v)
    return v.stop - now
  end

  function calendar.figures(v)
    return v.used == 0 and 0 or v.stop - now, 0
  end

  function calendar.hasMoved()
    return false
  end

  -- Goes on to the window of now; never back to an earlier one.
  function calendar.keep(v)
    local s = v.state
    if now > s[3] then s[3] = now end
    if now >= s.stop then
      s.prevStart, s.prevUsed = s.start, s.used
      s.start, s.stop, s.used = v.start, v.stop, 0
    end
  end

  function calendar.fresh(v)
    local start, stop = windowAt(v)
    return { 107, 0, now, start = start, stop = stop, used = 0, prevStart = -1, prevUsed = 0 }
  end

  function calendar.take(v, amount)
    if v.state then calendar.keep(v) else v.state = calendar.fresh(v) end
    local s = v.state
    s.used = s.used + amount
    v.used = s.used
    return s.start, v.a - s.used, calendar.figures(v)
  end

  function calendar.settle(v, place, held, actual)
    local s = v.state
    if actual > held then
      calendar.look(v)
      calendar.keep(v)
      s.used = math.min(s.used + (actual - held), ${2 * MAX_CAPACITY})
    elseif place == s.start then
      s.used = math.max(0, s.used - (held - actual))
    elseif place == s.prevStart then
      s.prevUsed = math.max(0, s.prevUsed - (held - actual))
    else
      return false
    end
    return true
  end

  function calendar.lapsesAt(s)
    return s.stop + ${DAY_MS}
  end

  function calendar.text(s)
    return pack('>c1ddddddd', 'k', s[2], s[3], s.start, s.stop, s.used, s.prevStart, s.prevUsed)
  end

  return calendar
end
`;
