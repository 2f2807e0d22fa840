-- Adds a name to an index: a sorted set in the order of its bytes. ARGV: name. Answers whether it is new.
return redis.call('ZADD', KEYS[1], 'NX', 0, ARGV[1])
