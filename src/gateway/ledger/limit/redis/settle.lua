-- Replaces estimates by what was really used, and frees their places. A batch counts once, however often it comes:
-- a gateway that got no answer sends it again.
-- KEYS: the gateway's count of batches; then for each entry a holder's base.
-- ARGV: the time or ''; the batch's number; then for each entry: the reservation's id; limits of requests and tokens,
--   '' for none; tokens and nanodollars on top of the estimate, negative where it was too much; the day and the month
--   of the reservation.
if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', 7 * 86400)
local now = clock(ARGV[1])
local today, this_month = calendar(now)
for entry = 1, #KEYS - 1 do
  local base, first = KEYS[entry + 1], 7 * (entry - 1) + 3
  local id, requests_limit, tokens_limit = ARGV[first], tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
  local tokens, amount = tonumber(ARGV[first + 3]), ARGV[first + 4]
  local day, month = tonumber(ARGV[first + 5]), tonumber(ARGV[first + 6])
  redis.call('ZREM', base .. ':running', id)
  if tokens ~= 0 and tokens_limit then
    local bucket = buckets(base, requests_limit, tokens_limit, now)
    bucket.tokens = math.max(0, math.min(MOST, bucket.tokens + tokens * UNIT))
    keep_buckets(base, bucket, requests_limit, tokens_limit)
  end
  if amount ~= '0' then pay(base, spending(base, today, this_month), day, month, amount) end
end
return 1
