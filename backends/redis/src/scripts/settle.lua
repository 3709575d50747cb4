-- Settles entries one by one, each only if this consumer still holds it. Copies are written first.
-- KEYS: stream, delayed, waiting, dead, suspects. ARGV: consumer, 1 to wake another consumer, then for each entry its
-- id and
--   'ack'
--   'release', the token of its run alone ('' if it had none)
--   'retry', delay in ms, the id of the wait, the number of fields and values, and those
--   'dead', the number of fields and values, and those
-- Answers 1 for each that was settled and 0 for each that this consumer does not hold, or what went wrong.
local me = ARGV[1]
local answers = {}
local released = false
local at = 3
local function copy(target, first)
  local last = first + tonumber(ARGV[first - 1]) - 1
  at = last + 1
  return target and redis.pcall('XADD', target, '*', unpack(ARGV, first, last)), last
end
while at <= #ARGV do
  local id, what = ARGV[at], ARGV[at + 1]
  local held = redis.pcall('XPENDING', KEYS[1], 'consumers', id, id, 1, me)
  if held.err and string.sub(held.err, 1, 7) ~= 'NOGROUP' then
    return held
  end
  -- A stream that is gone holds nothing for anybody.
  local mine = not held.err and #held == 1
  local answer = mine and 1 or 0
  local remove = mine
  if what == 'ack' then
    at = at + 2
  elseif what == 'release' then
    remove = false
    if mine then
      released = true
      -- Zero is the first moment there was: whoever looks for the silent finds it as well.
      redis.call('XCLAIM', KEYS[1], 'consumers', '~', 0, id, 'JUSTID')
      -- A run that was recorded, and did not end badly.
      local count, run = string.match(redis.call('HGET', KEYS[5], id) or '', '^(%d+) (.+)$')
      if run and run == ARGV[at + 2] then
        redis.call('HSET', KEYS[5], id, (count - 1) .. ' ')
      end
    end
    at = at + 3
  elseif what == 'retry' then
    local delay, wait, first = tonumber(ARGV[at + 2]), ARGV[at + 3], at + 5
    local stored, last = copy(mine and delay == 0 and KEYS[1], first)
    if mine and delay > 0 then
      local time = redis.call('TIME')
      local due = time[1] * 1000 + math.ceil(time[2] / 1000) + delay
      stored = redis.pcall('HSET', KEYS[3], wait, cmsgpack.pack({unpack(ARGV, first, last)}))
      if type(stored) ~= 'table' then
        stored = redis.pcall('ZADD', KEYS[2], string.format('%.0f', due), wait)
        if type(stored) == 'table' then
          redis.call('HDEL', KEYS[3], wait)
        end
      end
    end
    if type(stored) == 'table' then
      answer, remove = stored.err, false
    end
  else
    local stored = copy(mine and KEYS[4], at + 3)
    if type(stored) == 'table' then
      answer, remove = stored.err, false
    end
  end
  if type(answer) == 'string' and string.sub(answer, 1, 8) == 'READONLY' then
    -- This is not the master any more: whoever asks has to go there.
    return redis.error_reply(answer)
  end
  if remove then
    redis.call('XACK', KEYS[1], 'consumers', id)
    redis.call('XDEL', KEYS[1], id)
    redis.call('HDEL', KEYS[5], id)
  end
  answers[#answers + 1] = answer
end
if released and ARGV[2] == '1' then
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'consumers')) do
    local name = consumer[2]
    if name ~= me and name ~= '~' then
      -- It comes to one of those who wait, and has it look. Without memory they do by themselves, a moment later.
      redis.pcall('XADD', KEYS[1], '*', 'switchboard-wake', '1')
      break
    end
  end
end
return answers
