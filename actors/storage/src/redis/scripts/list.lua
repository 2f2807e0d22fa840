-- A page of an index. ARGV: behind which name ('' from the beginning), most names.
-- Answers how many names the index has, then the names.
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local names = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, ARGV[2])
table.insert(names, 1, redis.call('ZCARD', KEYS[1]))
return names
