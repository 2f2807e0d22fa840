-- Writes the lineage, unless there is one and it must be absent. ARGV: record, whether it must be
-- absent. Answers whether it was written.
if ARGV[2] == '1' and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
