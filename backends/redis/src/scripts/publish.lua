-- Appends messages to the streams of the queues that the publisher's table names, if that is still the table.
-- KEYS: version, bindings, queues, then targets: a stream, or the channel of an ephemeral subscription.
-- ARGV: token; for each target its queue and its limit ('' without one); then for each message the number of its
--       targets, which they are, the number of its fields and values, and those.
-- Answers for each message how many targets took it, or '<why> <target>'.
if version ~= ARGV[1] then
  if not version then
    return {'GONE'}
  end
  return {'STALE', version, redis.call('HGETALL', KEYS[3]), redis.call('HKEYS', KEYS[2])}
end
local targets = #KEYS - 3
-- By place, which the messages say as text.
local streams, limits = {}, {}
for target = 1, targets do
  local place, limit = tostring(target), ARGV[1 + 2 * target]
  if string.sub(ARGV[2 * target], 1, 1) ~= '~' then
    streams[place] = KEYS[3 + target]
  end
  if limit ~= '' then
    limits[place] = tonumber(limit)
  end
end
local limited = next(limits) ~= nil
local pcall, argv = redis.pcall, ARGV
local at, size = 2 + 2 * targets, #ARGV
local answers = {}
local swept = false

-- Tells an ephemeral subscription. Answers whether it is still there.
local function tell(target, first, last)
  local parts = {}
  for j = first, last do
    parts[#parts + 1] = #ARGV[j] .. ':' .. ARGV[j]
  end
  if redis.call('SPUBLISH', KEYS[3 + target], table.concat(parts)) > 0 then
    return true
  end
  -- The subscriber is gone, and left its bindings behind.
  forget(ARGV[2 * target])
  swept = true
  return false
end

while at <= size do
  local count = tonumber(argv[at])
  local first = at + 2 + count
  local last = first + argv[first - 1] - 1
  local answer = 0
  -- Into all of them or none, as far as that can be known before.
  if limited then
    for i = at + 1, at + count do
      local limit = limits[argv[i]]
      if limit and redis.call('XLEN', KEYS[3 + argv[i]]) >= limit then
        answer = 'full ' .. argv[i]
      end
    end
  end
  if answer == 0 then
    for i = at + 1, at + count do
      local stream = streams[argv[i]]
      if stream then
        local id = pcall('XADD', stream, 'NOMKSTREAM', '*', unpack(argv, first, last))
        if not id then
          answer = 'missing ' .. argv[i]
        elseif type(id) == 'table' and string.sub(id.err, 1, 8) == 'READONLY' then
          -- This is not the master any more: nothing was stored, and nothing will be.
          return id
        elseif type(id) == 'table' then
          answer = 'error ' .. argv[i] .. ' ' .. id.err
        elseif type(answer) == 'number' then
          answer = answer + 1
        end
      elseif tell(tonumber(argv[i]), first, last) and type(answer) == 'number' then
        answer = answer + 1
      end
    end
  end
  answers[#answers + 1] = answer
  at = last + 1
end
if swept then
  redis.call('SET', KEYS[1], argv[1] .. '+')
end
return answers
