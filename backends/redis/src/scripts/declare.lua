-- Declares a queue's stream and bindings on one exchange. Only adds.
-- KEYS: version, bindings, queues, stream. ARGV: a fresh token, queue, limit, then fields of bindings.
local version = redis.call('GET', KEYS[1])
local function renew()
  -- The first part tells this table from one that was made anew after a wipe.
  local born = version and string.match(version, '^[^.]*') or ARGV[1]
  -- A request may be repeated, a version may not.
  local time = redis.call('TIME')
  redis.call('SET', KEYS[1], born .. '.' .. ARGV[1] .. '.' .. time[1] .. '.' .. time[2])
end
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
        for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
          if string.sub(field, 1, #queue + 1) == queue .. ' ' then
            redis.call('HDEL', KEYS[2], field)
          end
        end
        redis.call('HDEL', KEYS[3], queue)
        changed = true
      end
    end
  end
end
if changed then
  renew()
end
return redis.status_reply('OK')
