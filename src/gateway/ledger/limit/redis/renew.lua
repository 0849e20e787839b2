-- Renews the leases of reservations that are still under way.
-- KEYS: a holder's base for each. ARGV: the time or ''; milliseconds of a lease; then an id for each.
local now, lease = clock(ARGV[1]), tonumber(ARGV[2])
for i, base in ipairs(KEYS) do
  redis.call('ZADD', base .. ':running', 'XX', now + lease, ARGV[i + 2])
  redis.call('PEXPIRE', base .. ':running', lease)
end
return 1
