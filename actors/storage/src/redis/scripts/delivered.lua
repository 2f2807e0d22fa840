-- Counts first writes to terminals. ARGV: kind, then for each: offset, terminals.
local key, kind = KEYS[1], ARGV[1]
for i = 2, #ARGV, 2 do
  local message
  if kind == 't' then
    local value = redis.call('HGET', key, ARGV[i])
    message = value and string.sub(value, ENTRY_HEAD + 1, ENTRY_HEAD + 16)
  else
    message = redis.call('ZRANGEBYSCORE', key .. ':o', ARGV[i], ARGV[i], 'LIMIT', 0, 1)[1]
  end
  local packed = message and redis.call('HGET', key .. ':c', message)
  if packed and kind == 't' then
    local offset, expires, outcome = struct.unpack(PLACE, packed)
    redis.call('HSET', key .. ':c', message, struct.pack(PLACE, offset, expires, outcome, 1))
  elseif packed then
    local row = counts_load(packed)
    row.delivered = row.delivered + tonumber(ARGV[i + 1])
    redis.call('HSET', key .. ':c', message, counts_pack(row))
  end
end
return 0
