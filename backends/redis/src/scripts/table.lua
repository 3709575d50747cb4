-- The table of an exchange, which is declared if it is not there.
-- KEYS: version, bindings, queues. ARGV: a fresh token.
if not version then
  renew()
end
return {redis.call('GET', KEYS[1]), redis.call('HGETALL', KEYS[3]), redis.call('HKEYS', KEYS[2])}
