-- Before each of the scripts: time, and what a holder has used, by the rules of account.rs.
--
-- BASE:minute   hash   what is used of the limits per minute, `at` a time; gone a minute after all is refilled
-- BASE:running  zset   reservations by the millisecond at which their leases end; gone with the last lease
-- BASE:spent    hash   nanodollars of a day and a month, and of the day and the month that the clock showed before; stays
-- BASE:total    text   nanodollars of all time, for credit; stays
-- The last two also stand under another base for what of them was not counted here but told by a gateway.
--
-- Lua's numbers are doubles, whole up to 2^53 = 9.007e15. Buckets count in UNIT-ths of a request or a token, so
-- that each millisecond gives `limit` back: whole for 1.5e11 a minute, more than anybody serves. Dollars are
-- added by Redis itself, in 64 bits; Lua only compares them, exactly up to 9 million dollars.
local UNIT = 60000
local MOST = 9e15
-- Calls come a little out of order. What is further ahead than this, in milliseconds, was written while the clock was.
local AHEAD = 60000

-- Milliseconds since 1970 of Redis' own clock, so that gateways need not agree on the time. Tests give another.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Days since 1970-01-01, and months since year 0 (January is 1).
local function calendar(now)
  local day = math.floor(now / 86400000)
  local left, year = day, 1970
  local leap
  while true do
    leap = year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
    local days = leap and 366 or 365
    if left < days then break end
    left, year = left - days, year + 1
  end
  local month = 1
  for _, days in ipairs({31, leap and 29 or 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}) do
    if left < days then break end
    left, month = left - days, month + 1
  end
  return day, year * 12 + month
end

-- What is used of the limits per minute. Time runs backwards only where the clock was ahead and has come back; where
-- there is no limit nothing is used.
local function buckets(base, requests_limit, tokens_limit, now)
  local kept = redis.call('HMGET', base .. ':minute', 'at', 'requests', 'tokens')
  local before = tonumber(kept[1] or now)
  if before > now + AHEAD then before = now end
  local at = math.max(before, now)
  local function left(used, limit)
    return limit and math.max(0, tonumber(used or 0) - (at - before) * limit) or 0
  end
  return { at = at, requests = left(kept[2], requests_limit), tokens = left(kept[3], tokens_limit) }
end

local function keep_buckets(base, bucket, requests_limit, tokens_limit)
  local key = base .. ':minute'
  local function refill(used, limit)
    return limit and limit > 0 and math.ceil(used / limit) or 0
  end
  redis.call('HSET', key, 'at', bucket.at, 'requests', bucket.requests, 'tokens', bucket.tokens)
  local full = math.max(refill(bucket.requests, requests_limit), refill(bucket.tokens, tokens_limit))
  redis.call('PEXPIRE', key, full + 60000)
end

-- What is spent in the day and the month of now. What was spent in those before is kept beside it, so that a clock
-- that jumps and comes back finds it again. Amounts are texts.
local PERIODS = { 'day', 'of_day', 'other_day', 'of_other_day', 'month', 'of_month', 'other_month', 'of_other_month' }
local function spending(base, day, month)
  local kept = redis.call('HMGET', base .. ':spent', unpack(PERIODS))
  local spent = { total = redis.call('GET', base .. ':total') or '0' }
  local function turn(period, now, first)
    local current, of_current = tonumber(kept[first] or 0), kept[first + 1] or '0'
    local other, of_other = tonumber(kept[first + 2] or 0), kept[first + 3] or '0'
    if now ~= current then
      if now ~= other then other, of_other = now, '0' end
      current, of_current, other, of_other = other, of_other, current, of_current
    end
    spent[period], spent['of_' .. period] = current, of_current
    spent['other_' .. period], spent['of_other_' .. period] = other, of_other
  end
  turn('day', day, 1)
  turn('month', month, 5)
  return spent
end

local function keep_spending(base, spent)
  local key = base .. ':spent'
  local pairs_of = {}
  for _, field in ipairs(PERIODS) do
    table.insert(pairs_of, field)
    table.insert(pairs_of, spent[field])
  end
  redis.call('HSET', key, unpack(pairs_of))
  -- It would be gone at once where the clock jumps.
  redis.call('PERSIST', key)
end

-- Adds to what was spent; where the day or the month is long over, no more to theirs. Never under 0, nor over 64 bits.
local function pay(base, spent, day, month, amount)
  keep_spending(base, spent)
  local key, number = base .. ':spent', tonumber(amount)
  local function add(field, before)
    local after = tonumber(before) + number
    if after < 0 then redis.call('HSET', key, field, 0) end
    if after >= 0 and after < 9e18 then redis.call('HINCRBY', key, field, amount) end
  end
  for period, of in pairs({ day = day, month = month }) do
    if of == spent[period] then
      add('of_' .. period, spent['of_' .. period])
    elseif of == spent['other_' .. period] then
      add('of_other_' .. period, spent['of_other_' .. period])
    end
  end
  local after = tonumber(spent.total) + number
  if after < 0 then redis.call('SET', base .. ':total', 0) end
  if after >= 0 and after < 9e18 then redis.call('INCRBY', base .. ':total', amount) end
end

