-- A terminal leaves a topic, by itself or banned by the back-end; its cursor is dropped.
-- ARGV: time shift, ms that the record lives, epoch, topic, whether it is a ban, most bans,
-- broadcast head or '', tellers and up to where all of theirs is counted, a ticket that is known to be
-- counted or '', ticket of what it leaves.
-- 0: a ban of a terminal that is not known needs the broadcast's head. 2: what its cursor passed is not
-- known to be counted: that, up to where it goes. 3: it left that topic before, or everything, and that is
-- to be done first: what it left. Else 1, what it leaves now or '', whether a ban was dropped for the
-- new one.
local key, log = KEYS[1], 's' .. ARGV[4]
local epoch, bans, broadcast = tonumber(ARGV[3]), ARGV[5] == '1', ARGV[7]
local now = now_ms(ARGV[1])
local m = meta_load(key, 't')
local r = record_load(m)
local sub, index, left
if r then
  sub, index = record_sub(r, log)
  left = record_left(r, log) or (not record_lives(r) and r.left[1])
end
if left then return { 3, left_pack(left) } end
local reading = sub and not sub.banned
if reading and not sub_counted(sub, ARGV[8], ARGV[9]) then
  return { 2, sub.pending, sub_settled(sub) }
end
if not reading and not (bans and not sub) then return { 1, '', 0 } end
if not r then
  if broadcast == '' then return { 0 } end
  r = record_new(now, epoch, tonumber(broadcast))
end
r.seen = now
if index then table.remove(r.subs, index) end
local dropped = 0
if bans then
  local count, oldest = 0, nil
  for i, other in ipairs(r.subs) do
    if other.banned then
      count = count + 1
      oldest = oldest or i
    end
  end
  if count >= tonumber(ARGV[6]) then
    table.remove(r.subs, oldest)
    dropped = 1
  end
  local ban = sub_new(log, epoch, 0)
  ban.banned = true
  r.subs[#r.subs + 1] = ban
end
if reading then
  record_leaves(r, log, ARGV[10], sub_settled(sub), now)
  left = left_pack(r.left[#r.left])
end
m.record = record_pack(r)
meta_save(key, m)
redis.call('PEXPIRE', key, ARGV[2])
return { 1, left or '', dropped }
