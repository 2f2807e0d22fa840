-- A terminal is no reader any more. What it had not settled in a user's inbox is counted as left at
-- once (I13); in a topic or broadcast, which may have many messages, `count.lua` does it in pieces.
-- ARGV: kind, time shift, terminal, not after: later nothing happens, for it may be a reader anew by then
-- (I2). A terminal that was no member changes nothing; who is a reader of
-- the broadcast, its registry says.
-- Answers whether it was a member, and the head; or that it came too late.
local key, kind, terminal = KEYS[1], ARGV[1], ARGV[3]
if now_ms(ARGV[2]) > tonumber(ARGV[4]) then return { 2, 0 } end
local m, fresh = meta_load(key, kind)
if fresh then return { 0, 0 } end
if kind == 'b' then
  m.readers = math.max(0, m.readers - 1)
elseif kind == 's' then
  return { redis.call('ZREM', key .. ':m', terminal), m.last }
else
  local position = redis.call('HGET', key .. ':m', terminal)
  if not position then return { 0, 0 } end
  redis.call('HDEL', key .. ':m', terminal)
  rows_passed(key, tonumber(position), m.last, BY_LEAVING, now_ms(ARGV[2]), 0)
  user_trim(key, m)
end
meta_save(key, m)
return { 1, m.last }
