-- Deletes a queue on one exchange: its bindings first.
-- KEYS: version, bindings, queues, then all keys of the queue. ARGV: a fresh token, queue.
if forget(ARGV[2]) > 0 and version then
  renew()
end
if KEYS[4] then
  redis.call('UNLINK', unpack(KEYS, 4))
end
return redis.status_reply('OK')
