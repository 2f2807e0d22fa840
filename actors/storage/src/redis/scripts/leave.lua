-- A terminal is no reader any more: what it had not settled is counted as left (I13).
-- ARGV: kind, time shift, terminal, up to where it had settled, whether it counts as a reader of the
-- broadcast, whether its joining is undone. A terminal that was no member changes nothing.
-- Answers whether it was a member.
local key, kind, terminal, from = KEYS[1], ARGV[1], ARGV[3], tonumber(ARGV[4])
local now = now_ms(ARGV[2])
local m, fresh = meta_load(key, kind)
if fresh then return 0 end
if kind == 'b' then
  if ARGV[5] ~= '1' then return 0 end
  m.readers = math.max(0, m.readers - 1)
elseif kind == 's' then
  if redis.call('ZREM', key .. ':m', terminal) == 0 then return 0 end
else
  local position = redis.call('HGET', key .. ':m', terminal)
  if not position then return 0 end
  from = tonumber(position)
  redis.call('HDEL', key .. ':m', terminal)
end
rows_passed(key, from, m.last, BY_LEAVING, now)
if kind == 'u' then user_trim(key, m) end
meta_save(key, m)
return 1
