import { LINGER_MS, MAX_AHEAD_MS, MAX_CAPACITY } from "../../../limits/kind.ts";

/*
 * The four kinds of limits in Lua, in the arithmetic of `limits/`: doubles and the same order of operations, so both give the same figures. A `view`
 * is one charge of one operation: its rule (a, b, c…), its state (false = none), and the state as it would stand now. Only `keep`, `take` and
 * `settle` change the state. `take` returns the place, what is left, and the two `figures` that tell the reset. A quotient is written (a - a % b) / b, which is exact and spares a call of math.floor.
 */

/** `limits/bucket` in Lua. Rule: a = capacity, b = n, c = d. State: kind, until, t, level, carry, capacity, n, d. */
export const BUCKET = `
makers[98] = function()
  local function timeTo(level, carry, n, d, target)
    if n == 0 then return INF end
    local missing = target - level
    local rest = missing % n
    local whole = (missing - rest) / n
    if whole > (9e15 - 9e15 % d) / d then return INF end
    local ms = whole * d + math.ceil((rest * d - carry) / n)
    return ms > 9e15 and INF or ms
  end

  -- Level, carry and stamp of a state brought to now under its own definition.
  local function refilled(s)
    local t, level, carry = s[3], s[4], s[5]
    local dt = now - t
    if dt <= 0 then
      if dt < -${MAX_AHEAD_MS} then t = now end
      return level, carry, t
    end
    local capacity, n, d = s[6], s[7], s[8]
    if level >= capacity then return capacity, 0, now end
    if n == 0 then return level, carry, now end
    local rest = dt % d
    local parts = rest * n + carry
    carry = parts % d
    level = level + ((dt - rest) / d * n + (parts - carry) / d)
    if level >= capacity then return capacity, 0, now end
    return level, carry, now
  end

  return {
    parse = function(text)
      if #text ~= 57 then return BAD end
      local untilMs, t, level, carry, capacity, n, d = unpk('>ddddddd', text, 2)
      if not (untilMs == untilMs and t == t and level == level and carry >= 0 and n >= 0 and d >= 1) then return BAD end
      return { 98, untilMs, t, level, carry, capacity, n, d }
    end,
    look = function(v)
      local s, a, d = v.state, v.a, v.c
      if not s then
        v.t, v.level, v.carry = now, a, 0
        return a
      end
      local level, carry, t = refilled(s)
      if s[6] ~= a or s[7] ~= v.b or s[8] ~= d then
        if s[8] ~= d then
          local product = carry * d
          carry = product > 9e15 and 0 or math.floor(product / s[8])
        end
        if level >= a then level, carry = a, 0 end
      end
      v.t, v.level, v.carry = t, level, carry
      return level
    end,
    wait = function(v, amount)
      return timeTo(v.level, v.carry, v.b, v.c, amount) + (v.t - now)
    end,
    -- The caller works the reset out of these: its arithmetic is compiled.
    figures = function(v)
      return v.carry, v.t - now
    end,
    hasMoved = function(v)
      local s = v.state
      return s[6] ~= v.a or s[7] ~= v.b or s[8] ~= v.c or s[3] - now > ${MAX_AHEAD_MS}
    end,
    keep = function(v)
      local s = v.state
      s[3], s[4], s[5], s[6], s[7], s[8] = v.t, v.level, v.carry, v.a, v.b, v.c
    end,
    take = function(v, amount)
      local s, t, level, carry = v.state, v.t, v.level - amount, v.carry
      if s then
        s[3], s[4], s[5], s[6], s[7], s[8] = t, level, carry, v.a, v.b, v.c
      else
        v.state = { 98, 0, t, level, carry, v.a, v.b, v.c }
      end
      return 0, level, carry, t - now
    end,
    fresh = function(v)
      return { 98, 0, now, v.a, 0, v.a, v.b, v.c }
    end,
    settle = function(v, _, held, actual)
      local s = v.state
      local level, carry, t = refilled(s)
      level = level + (held - actual)
      if level >= s[6] then
        level, carry = s[6], 0
      elseif level < -${MAX_CAPACITY} then
        level = -${MAX_CAPACITY}
      end
      s[3], s[4], s[5] = t, level, carry
      return true
    end,
    lapsesAt = function(s)
      return (s[4] >= s[6] and s[3] or s[3] + timeTo(s[4], s[5], s[7], s[8], s[6])) + ${LINGER_MS}
    end,
    text = function(s)
      return pack('>c1ddddddd', 'b', s[2], s[3], s[4], s[5], s[6], s[7], s[8])
    end,
  }
end
`;
