-- Takes a consumer off that holds nothing. A consumer that holds something keeps it.
-- KEYS: stream, robbed, holder. ARGV: consumer.
if redis.call('GET', KEYS[3]) == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
local held = redis.pcall('XPENDING', KEYS[1], 'consumers', '-', '+', 1, ARGV[1])
if held.err or #held > 0 then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'consumers', ARGV[1])
