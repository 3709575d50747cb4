-- Renews the lease of what a consumer holds, and answers which entries these are.
-- KEYS: stream, holder. ARGV: consumer, lease in ms.
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
local ids = {}
local from = '-'
while true do
  local held = redis.call('XPENDING', KEYS[1], 'consumers', from, '+', 1000, ARGV[1])
  local batch = {}
  for i, entry in ipairs(held) do
    batch[i] = entry[1]
    ids[#ids + 1] = entry[1]
  end
  local count = #batch
  if count > 0 then
    from = '(' .. batch[count]
    batch[count + 1] = 'JUSTID'
    redis.call('XCLAIM', KEYS[1], 'consumers', ARGV[1], 0, unpack(batch))
  end
  if count < 1000 then
    return ids
  end
end
