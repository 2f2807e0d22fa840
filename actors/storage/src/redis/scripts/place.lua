-- What a log knows of a message. ARGV: kind, time shift, message.
-- Nothing, or its place or counts, now, whether the entry is there, how many readers of a user's
-- inbox have it before them.
local key, kind, message = KEYS[1], ARGV[1], ARGV[3]
local packed = redis.call('HGET', key .. ':c', message)
if not packed then return false end
local offset = struct.unpack('<I7', packed)
local there, before = 0, 0
if kind == 't' then
  there = redis.call('HEXISTS', key, num(offset))
elseif kind == 'u' then
  for _, position in ipairs(redis.call('HVALS', key .. ':m')) do
    if tonumber(position) < offset then before = before + 1 end
  end
end
return { packed, now_ms(ARGV[2]), there, before }
