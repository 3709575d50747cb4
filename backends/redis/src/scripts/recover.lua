-- Puts retries that are due into the stream, and takes over what was given back or whose holder is silent.
-- KEYS: stream, delayed, waiting, suspects, robbed, holder.
-- ARGV: consumer, lease in ms, most to take, 1 if the queue is ordered, most retries to move, 1 if it is the holder and
--       has everything of the one before, for how long a consumer is silent that is taken from, in ms.
-- Answers: whether this consumer may read, ms until the next retry is due (-1 without one), whether there is more to
--          take, the entries taken, ids of entries whose data is gone, and why retries that are due were not moved.
local me, lease, room, ordered = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- What cannot be moved stays, and does not keep this consumer from what there is: without memory only consuming makes
-- room.
local trouble = ''
local waits = redis.pcall('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[5])
if waits.err then
  trouble, waits = waits.err, {}
end
for _, id in ipairs(waits) do
  local packed = redis.pcall('HGET', KEYS[3], id)
  local moved = packed
  if type(packed) == 'string' then
    moved = redis.pcall('XADD', KEYS[1], '*', unpack(cmsgpack.unpack(packed)))
  end
  if type(moved) == 'table' then
    trouble = moved.err
    break
  end
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
end
local due = -1
if trouble == '' then
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if first[2] then
    due = math.max(0, tonumber(first[2]) - now)
  end
end

local silent = tonumber(ARGV[7])
if ordered then
  local holder = redis.call('GET', KEYS[6])
  if holder and holder ~= me then
    return {0, due, 0, {}, {}, trouble}
  end
  -- Without memory the first is possible, and after a write the second.
  if redis.call('PEXPIRE', KEYS[6], lease) == 0 then
    redis.call('SET', KEYS[6], me, 'PX', lease)
  end
  if not holder or ARGV[6] ~= '1' then
    -- Who held the queue before is silent, with all that it had.
    silent = 0
  end
end

local taken, lost = {}, {}
local function take(id, deliveries)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then
    -- Claiming it takes it off the list of what is held.
    redis.call('HDEL', KEYS[4], id)
    lost[#lost + 1] = id
    return
  end
  local alone = redis.call('HGET', KEYS[4], id)
  taken[#taken + 1] = {id, entry[2], deliveries, alone or ''}
end

local more = 0
local returned = redis.call('XPENDING', KEYS[1], 'consumers', '-', '+', room + 1, '~')
for i, held in ipairs(returned) do
  if #taken >= room then
    more = 1
    break
  end
  redis.call('XCLAIM', KEYS[1], 'consumers', me, 0, held[1], 'JUSTID')
  take(held[1], held[4] - 1)
end
local late = redis.call('XPENDING', KEYS[1], 'consumers', 'IDLE', silent, '-', '+', room - #taken + 1000)
for i, held in ipairs(late) do
  local id, holder = held[1], held[2]
  if holder ~= me and holder ~= '~' then
    if #taken >= room then
      more = 1
      break
    end
    redis.call('XCLAIM', KEYS[1], 'consumers', me, 0, id, 'RETRYCOUNT', held[4] + 1, 'JUSTID')
    redis.call('HSET', KEYS[5], holder, now)
    redis.call('HSETNX', KEYS[4], id, '0 ')
    take(id, held[4])
  end
end
return {1, due, more, taken, lost, trouble}
