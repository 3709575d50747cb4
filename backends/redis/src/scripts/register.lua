-- Notes a queue's arguments and exchanges, unless it was declared with other arguments.
-- KEYS: the queue. ARGV: 1 only to look, number of arguments, their names and values, then fields of exchanges.
local count = tonumber(ARGV[2])
local deleting = redis.call('HEXISTS', KEYS[1], 'deleting') == 1
-- What is being deleted is declared as if it had not been there.
if not deleting then
  for i = 3, 1 + 2 * count, 2 do
    local have = redis.call('HGET', KEYS[1], ARGV[i])
    if have and have ~= ARGV[i + 1] then
      return {ARGV[i], have}
    end
  end
end
if ARGV[1] == '1' then
  return {}
end
if deleting then
  redis.call('DEL', KEYS[1])
end
-- What is there already is not written again: without memory a service has to be able to start, and to consume.
local function note(field, value)
  if redis.call('HGET', KEYS[1], field) ~= value then
    redis.call('HSET', KEYS[1], field, value)
  end
end
for i = 3, 1 + 2 * count, 2 do
  note(ARGV[i], ARGV[i + 1])
end
for i = 3 + 2 * count, #ARGV do
  note(ARGV[i], '')
end
return {}
