-- Notes a queue's arguments and exchanges, unless it was declared with other arguments.
-- KEYS: the queue. ARGV: number of arguments, their names and values, then fields of exchanges.
local count = tonumber(ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 1 then
  for i = 2, 2 * count, 2 do
    local have = redis.call('HGET', KEYS[1], ARGV[i])
    if have and have ~= ARGV[i + 1] then
      return {ARGV[i], have}
    end
  end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2, 1 + 2 * count))
for i = 2 + 2 * count, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[i], '')
end
return {}
