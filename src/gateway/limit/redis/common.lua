-- Before each of the scripts: time, and what a holder has used, by the rules of account.rs.
--
-- BASE:minute   hash   what is used of the limits per minute, `at` a time; gone a minute after all is refilled
-- BASE:running  zset   reservations by the millisecond at which their leases end; gone with the last lease
-- BASE:spent    hash   nanodollars of a day and a month; gone a month after the last of them
-- BASE:total    text   nanodollars of all time, for credit; stays
-- The last two also stand under another base for what of them was not counted here but told by a gateway.
--
-- Lua's numbers are doubles, whole up to 2^53 = 9.007e15. Buckets count in UNIT-ths of a request or a token, so
-- that each millisecond gives `limit` back: whole for 1.5e11 a minute, more than anybody serves. Dollars are
-- added by Redis itself, in 64 bits; Lua only compares them, exactly up to 9 million dollars.
local UNIT = 60000
local MOST = 9e15

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

-- What is used of the limits per minute. Time does not run backwards; where there is no limit nothing is used.
local function buckets(base, requests_limit, tokens_limit, now)
  local kept = redis.call('HMGET', base .. ':minute', 'at', 'requests', 'tokens')
  local before = tonumber(kept[1] or now)
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

-- What is spent, in a day and a month that are never older than those of before. Amounts are texts.
local function spending(base, day, month)
  local kept = redis.call('HMGET', base .. ':spent', 'day', 'month', 'of_day', 'of_month')
  local spent = {
    day = tonumber(kept[1] or 0), month = tonumber(kept[2] or 0), of_day = kept[3] or '0', of_month = kept[4] or '0',
    total = redis.call('GET', base .. ':total') or '0',
  }
  if day > spent.day then spent.day, spent.of_day = day, '0' end
  if month > spent.month then spent.month, spent.of_month = month, '0' end
  return spent
end

local function keep_spending(base, spent)
  local key = base .. ':spent'
  redis.call('HSET', key, 'day', spent.day, 'month', spent.month, 'of_day', spent.of_day, 'of_month', spent.of_month)
  redis.call('EXPIRE', key, 32 * 86400)
end

-- Adds to what was spent; where the day or the month is over, no more to theirs. Never under 0, nor over 64 bits.
local function pay(base, spent, day, month, amount)
  keep_spending(base, spent)
  local key, number = base .. ':spent', tonumber(amount)
  local function add(field, before)
    local after = tonumber(before) + number
    if after < 0 then redis.call('HSET', key, field, 0) end
    if after >= 0 and after < 9e18 then redis.call('HINCRBY', key, field, amount) end
  end
  if day == spent.day then add('of_day', spent.of_day) end
  if month == spent.month then add('of_month', spent.of_month) end
  local after = tonumber(spent.total) + number
  if after < 0 then redis.call('SET', base .. ':total', 0) end
  if after >= 0 and after < 9e18 then redis.call('INCRBY', base .. ':total', amount) end
end

