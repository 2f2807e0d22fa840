-- Removes a name from an index. ARGV: name. Answers whether it was there.
return redis.call('ZREM', KEYS[1], ARGV[1])
