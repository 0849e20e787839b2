-- Tells what holders had spent as far as a gateway knows.
-- KEYS: for each holder its base, and that of what was told of it.
-- ARGV: the time or ''; 1 where Redis has lost its data since the gateway knew, else 0; then for each holder: a day and
--   a month; nanodollars of that day, of that month, in all.
-- What is counted is raised to that. After a loss it comes on top of what was counted since, once for all gateways:
-- of what they tell, which is kept, the largest holds.
local today, this_month = calendar(clock(ARGV[1]))
local lost = ARGV[2] == '1'
for i = 1, #KEYS / 2 do
  local base, told_base, first = KEYS[2 * i - 1], KEYS[2 * i], 5 * i - 2
  local counted, told = spending(base, today, this_month), spending(told_base, today, this_month)
  local function raise(field, amount)
    local more = tonumber(amount) - tonumber(lost and told[field] or counted[field])
    if more <= 0 then return end
    counted[field] = string.format('%.0f', counted[field] + more)
    told[field] = string.format('%.0f', told[field] + more)
  end
  if tonumber(ARGV[first]) == counted.day then raise('of_day', ARGV[first + 2]) end
  if tonumber(ARGV[first + 1]) == counted.month then raise('of_month', ARGV[first + 3]) end
  raise('total', ARGV[first + 4])
  for key, spent in pairs({ [base] = counted, [told_base] = told }) do
    keep_spending(key, spent)
    redis.call('SET', key .. ':total', spent.total)
  end
end
return 1
