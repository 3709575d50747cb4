-- The table of an exchange, which is declared if it is not there.
-- KEYS: version, bindings, queues. ARGV: a fresh token.
local version = redis.call('GET', KEYS[1])
local function renew()
  -- The first part tells this table from one that was made anew after a wipe.
  local born = version and string.match(version, '^[^.]*') or ARGV[1]
  -- A request may be repeated, a version may not.
  local time = redis.call('TIME')
  redis.call('SET', KEYS[1], born .. '.' .. ARGV[1] .. '.' .. time[1] .. '.' .. time[2])
end
if not version then
  renew()
end
return {redis.call('GET', KEYS[1]), redis.call('HGETALL', KEYS[3]), redis.call('HKEYS', KEYS[2])}
