-- Creates or replaces a product. ARGV: name, record, whether it must be absent. KEYS[1] is the index.
local key = KEYS[1] .. ':' .. ARGV[1]
if ARGV[3] == '1' and redis.call('EXISTS', key) == 1 then return 0 end
redis.call('SET', key, ARGV[2])
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return 1
