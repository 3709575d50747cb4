-- Appends messages to the streams of the queues that the publisher's table names, if that is still the table.
-- KEYS: version, bindings, queues, then targets: a stream, or the channel of an ephemeral subscription.
-- ARGV: token; for each target its queue and its limit ('' without one);
--       then for each message the number of its targets, which they are, the number of its fields and values, and
--       those.
-- Answers for each message how many targets took it, or '<why> <target>'.
local version = redis.call('GET', KEYS[1])
if version ~= ARGV[1] then
  if not version then
    return {'GONE'}
  end
  return {'STALE', version, redis.call('HGETALL', KEYS[3]), redis.call('HKEYS', KEYS[2])}
end
local targets = #KEYS - 3
local at = 2 + 2 * targets
local answers = {}
local swept = false
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  local first = at + 2 + count
  local size = tonumber(ARGV[first - 1])
  local last = first + size - 1
  local answer = 0
  -- Into all of them or none, as far as that can be known before.
  for i = at + 1, at + count do
    local limit = ARGV[1 + 2 * ARGV[i]]
    if limit ~= '' and redis.call('XLEN', KEYS[3 + ARGV[i]]) >= tonumber(limit) then
      answer = 'full ' .. ARGV[i]
    end
  end
  if answer == 0 then
    for i = at + 1, at + count do
      local target = tonumber(ARGV[i])
      local key = KEYS[3 + target]
      local queue = ARGV[2 * target]
      if string.sub(queue, 1, 1) == '~' then
        local parts = {}
        for j = first, last do
          parts[#parts + 1] = #ARGV[j] .. ':' .. ARGV[j]
        end
        local heard = redis.call('SPUBLISH', key, table.concat(parts))
        if heard > 0 then
          if type(answer) == 'number' then answer = answer + 1 end
        else
          -- The subscriber is gone, and left its bindings behind.
          for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
            if string.sub(field, 1, #queue + 1) == queue .. ' ' then
              redis.call('HDEL', KEYS[2], field)
            end
          end
          redis.call('HDEL', KEYS[3], queue)
          swept = true
        end
      else
        local id = redis.pcall('XADD', key, 'NOMKSTREAM', '*', unpack(ARGV, first, last))
        if not id then
          answer = 'missing ' .. target
        elseif type(id) == 'table' and string.sub(id.err, 1, 8) == 'READONLY' then
          -- This is not the master any more: nothing was stored, and nothing will be.
          return id
        elseif type(id) == 'table' then
          answer = 'error ' .. target .. ' ' .. id.err
        elseif type(answer) == 'number' then
          answer = answer + 1
        end
      end
    end
  end
  answers[#answers + 1] = answer
  at = last + 1
end
if swept then
  redis.call('SET', KEYS[1], ARGV[1] .. '+')
end
return answers
