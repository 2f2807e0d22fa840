-- A terminal leaves a topic, by itself or banned by the back-end; its cursor is dropped.
-- ARGV: time shift, ms that the record lives, epoch, topic, whether it is a ban, most bans,
-- broadcast head or '', tellers and up to where all of theirs is counted, a ticket that is known to be
-- counted or ''.
-- 2: what its cursor passed is not known to be counted: that, up to where it goes. 0: a ban of a terminal that is not known needs the broadcast's head. Else 1, whether it was in,
-- up to where it had settled, whether a ban was dropped for the new one, whether the head was used.
local key, log = KEYS[1], 's' .. ARGV[4]
local epoch, bans, broadcast = tonumber(ARGV[3]), ARGV[5] == '1', ARGV[7]
local now = now_ms(ARGV[1])
local m = meta_load(key, 't')
local r = record_load(m)
local sub, index
local used = 0
if r then sub, index = record_sub(r, log) end
local reading = sub and not sub.banned
if reading and not sub_counted(sub, ARGV[8], ARGV[9]) then
  return { 2, sub.pending, sub_settled(sub) }
end
if not reading and not (bans and not sub) then
  return { 1, 0, 0, 0, 0 }
end
if not r then
  if broadcast == '' then return { 0 } end
  r = record_new(now, epoch, tonumber(broadcast))
  used = 1
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
m.record = record_pack(r)
meta_save(key, m)
redis.call('PEXPIRE', key, ARGV[2])
return { 1, reading and 1 or 0, reading and sub_settled(sub) or 0, dropped, used }
