-- Records that an entry is about to run alone, once for each token, and answers how often it did before; -1 if this
-- consumer does not hold it.
-- KEYS: stream, suspects. ARGV: consumer, id, token.
local held = redis.pcall('XPENDING', KEYS[1], 'consumers', ARGV[2], ARGV[2], 1, ARGV[1])
if held.err and string.sub(held.err, 1, 7) ~= 'NOGROUP' then
  return held
end
if held.err or #held == 0 then
  return -1
end
-- A script that has written may write on when there is no memory left. Otherwise no suspect could run then, and nothing
-- behind it: what would make room.
redis.call('XCLAIM', KEYS[1], 'consumers', ARGV[1], 0, ARGV[2], 'JUSTID')
local alone = redis.call('HGET', KEYS[2], ARGV[2]) or '0 '
local count, token = string.match(alone, '^(%d+) (.*)$')
if token == ARGV[3] then
  return tonumber(count) - 1
end
redis.call('HSET', KEYS[2], ARGV[2], (tonumber(count) + 1) .. ' ' .. ARGV[3])
return tonumber(count)
