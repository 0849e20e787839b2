-- Takes a request's estimate from all its holders, or from none: a refused request takes nothing.
-- KEYS: each holder's base.
-- ARGV: the time or ''; the reservation's id; milliseconds of its lease; tokens; nanodollars; then for each holder
--   its limits, '' for none: requests, tokens, concurrency, nanodollars per day, per month, in all.
-- Answers 1 or 0, the time, and for each holder what was used before: requests and tokens in UNIT-ths, running,
--   nanodollars of the day, of the month, in all. What no limit asks for may be left out as 0.
local now = clock(ARGV[1])
local id, lease, tokens, nanodollars = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local day, month = calendar(now)

local function affordable(limit, spent)
  spent = tonumber(spent)
  return not limit or (spent < limit and spent + nanodollars <= limit)
end

local passes, holders, answer = true, {}, { 1, now }
for i, base in ipairs(KEYS) do
  local function limit(which) return tonumber(ARGV[6 * i - 1 + which]) end
  local it = { requests = limit(1), tokens = limit(2), running = limit(3) }
  it.bucket = { requests = 0, tokens = 0 }
  if it.requests or it.tokens then it.bucket = buckets(base, it.requests, it.tokens, now) end
  if it.running then
    -- What ends later than a lease that begins now was given while the clock was ahead: it has one lease from now on.
    local ahead = redis.call('ZRANGEBYSCORE', base .. ':running', string.format('(%.0f', now + lease), '+inf')
    for _, given in ipairs(ahead) do redis.call('ZADD', base .. ':running', now + lease, given) end
  end
  local running = it.running and redis.call('ZCOUNT', base .. ':running', string.format('(%.0f', now), '+inf') or 0
  local spent = { of_day = '0', of_month = '0', total = '0' }
  if nanodollars > 0 or limit(4) or limit(5) or limit(6) then
    spent = spending(base, day, month)
    it.spent = spent
  end
  passes = passes
    and (not it.requests or it.bucket.requests + UNIT <= it.requests * UNIT)
    and (not it.tokens or it.bucket.tokens + tokens * UNIT <= it.tokens * UNIT)
    and (not it.running or running < it.running)
    and affordable(limit(4), spent.of_day) and affordable(limit(5), spent.of_month)
    and affordable(limit(6), spent.total)
  holders[i] = it
  for _, value in ipairs({ it.bucket.requests, it.bucket.tokens, running, spent.of_day, spent.of_month, spent.total }) do
    table.insert(answer, value)
  end
end
if not passes then
  answer[1] = 0
  return answer
end

for i, base in ipairs(KEYS) do
  local it = holders[i]
  if it.requests or it.tokens then
    local bucket = it.bucket
    bucket.requests = it.requests and math.min(MOST, bucket.requests + UNIT) or 0
    bucket.tokens = it.tokens and math.min(MOST, bucket.tokens + tokens * UNIT) or 0
    keep_buckets(base, bucket, it.requests, it.tokens)
  else
    redis.call('DEL', base .. ':minute')
  end
  if it.running then
    local key = base .. ':running'
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    redis.call('ZADD', key, now + lease, id)
    redis.call('PEXPIRE', key, lease)
  end
  if nanodollars > 0 then pay(base, it.spent, day, month, ARGV[5]) end
end
return answer
