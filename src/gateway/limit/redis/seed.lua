-- Tells what holders had spent as far as a gateway knows. The larger of that and of what is counted here holds.
-- KEYS: each holder's base. ARGV: the time or ''; then for each: a day and a month; nanodollars of that day, of that
--   month, in all.
local today, this_month = calendar(clock(ARGV[1]))
local function larger(a, b) return tonumber(a) >= tonumber(b) and a or b end
for i, base in ipairs(KEYS) do
  local first = 5 * (i - 1) + 2
  local spent = spending(base, today, this_month)
  if tonumber(ARGV[first]) == spent.day then spent.of_day = larger(spent.of_day, ARGV[first + 2]) end
  if tonumber(ARGV[first + 1]) == spent.month then spent.of_month = larger(spent.of_month, ARGV[first + 3]) end
  keep_spending(base, spent)
  redis.call('SET', base .. ':total', larger(spent.total, ARGV[first + 4]))
end
return 1
