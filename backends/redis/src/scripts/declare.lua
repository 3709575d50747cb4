-- Declares a queue's stream and bindings on one exchange. Only adds.
-- KEYS: version, bindings, queues, stream. ARGV: a fresh token, queue, limit, then fields of bindings.
local changed = not version
-- What is there already is not written again: without memory a service has to be able to start, and to consume.
local function has_group()
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[4])
  for _, group in ipairs(groups.err and {} or groups) do
    if group[2] == 'consumers' then
      return true
    end
  end
end
if KEYS[4] and not has_group() then
  redis.call('XGROUP', 'CREATE', KEYS[4], 'consumers', '0', 'MKSTREAM')
end
if redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
  changed = true
end
for i = 4, #ARGV do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then
    redis.call('HSET', KEYS[2], ARGV[i], '')
    changed = true
  end
end
if string.sub(ARGV[2], 1, 1) == '~' then
  -- What others left behind, whom nobody can hear any more.
  local base = string.sub(KEYS[1], 1, -string.len('version') - 1) .. 'channel:'
  for _, queue in ipairs(redis.call('HKEYS', KEYS[3])) do
    if string.sub(queue, 1, 1) == '~' and queue ~= ARGV[2] then
      local heard = redis.pcall('PUBSUB', 'SHARDNUMSUB', base .. queue)
      if not heard.err and heard[2] == 0 then
        forget(queue)
        changed = true
      end
    end
  end
end
if changed then
  renew()
end
return redis.status_reply('OK')
