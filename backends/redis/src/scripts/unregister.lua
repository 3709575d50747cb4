-- Notes that a queue is being deleted, and at last forgets it, unless it was declared anew meanwhile.
-- KEYS: the queue. ARGV: a token of this deletion, 1 at last.
if ARGV[2] == '1' then
  if redis.call('HGET', KEYS[1], 'deleting') == ARGV[1] then
    redis.call('DEL', KEYS[1])
  end
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'deleting', ARGV[1])
end
return redis.status_reply('OK')
