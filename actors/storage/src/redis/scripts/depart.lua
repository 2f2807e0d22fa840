-- An index says that a terminal reads a log, and its record does not know of it: it leaves.
-- ARGV: time shift, ms that the record lives, letter and name of the log, ticket.
-- Answers what it leaves, or nothing if its record says by now that it reads it.
local key, log = KEYS[1], ARGV[3]
local now = now_ms(ARGV[1])
local m, fresh = meta_load(key, 't')
local r = record_load(m)
local letter = string.sub(log, 1, 1)
if r then
  local sub = record_sub(r, letter == 'u' and 'u' or log)
  if sub and not sub.banned and (letter ~= 'u' or string.sub(log, 2) == r.user) then return false end
else
  r = { generation = 0, seen = now, registered = now, heartbeat = 0, kind = 15, epoch = 0, user = '',
    subs = {}, left = {} }
end
local left = record_left(r, log)
if not left then
  record_leaves(r, log, ARGV[4], NOTHING, now)
  left = r.left[#r.left]
  m.record = record_pack(r)
  meta_save(key, m)
  if fresh then redis.call('PEXPIRE', key, ARGV[2]) end
end
return left_pack(left)
