-- Puts a dead letter back into its queue, if it is still there: the copy first.
-- KEYS: dead, stream. ARGV: id, fields and values.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
  return 0
end
if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', unpack(ARGV, 2)) then
  return -1
end
return redis.call('XDEL', KEYS[1], ARGV[1])
