-- Takes a consumer off that holds nothing. A consumer that holds something keeps it.
-- KEYS: stream, robbed, holder. ARGV: consumer.
local held = redis.pcall('XPENDING', KEYS[1], 'consumers', '-', '+', 1, ARGV[1])
if not held.err and #held > 0 then
  return 0
end
if redis.call('GET', KEYS[3]) == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
redis.call('HDEL', KEYS[2], ARGV[1])
if held.err then
  return 0
end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'consumers', ARGV[1])
