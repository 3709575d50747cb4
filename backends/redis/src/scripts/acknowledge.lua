-- Removes entries that this consumer handled, if nothing was taken from it; otherwise says so.
-- KEYS: stream, robbed. ARGV: consumer, then ids.
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return -1
end
local count = redis.call('XACK', KEYS[1], 'consumers', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
return count
