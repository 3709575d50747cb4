-- In front of every script that has to do with the table of an exchange.
-- KEYS: version, bindings, queues.
local version = redis.call('GET', KEYS[1])

-- Makes the table another one. ARGV: a fresh token.
local function renew()
  -- The first part tells this table from one that was made anew after a wipe.
  local born = version and string.match(version, '^[^.]*') or ARGV[1]
  -- A request may be repeated, a version may not.
  local time = redis.call('TIME')
  redis.call('SET', KEYS[1], born .. '.' .. ARGV[1] .. '.' .. time[1] .. '.' .. time[2])
end

-- Takes a queue out of the table with its bindings. Answers how much there was.
local function forget(queue)
  local gone = redis.call('HDEL', KEYS[3], queue)
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(field, 1, #queue + 1) == queue .. ' ' then
      gone = gone + redis.call('HDEL', KEYS[2], field)
    end
  end
  return gone
end

