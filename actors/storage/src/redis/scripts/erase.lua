-- Removes a terminal that was not seen for the retention, with its inbox. What it read it leaves, and
-- its record stays until that is done. ARGV: time shift, retention in ms, ticket of what it leaves,
-- tickets that are known to be counted. Answers its record, or nothing if it was seen since, or
-- something its cursors passed is not known to be counted.
local key = KEYS[1]
local now = now_ms(ARGV[1])
local m = meta_load(key, 't')
local r = record_load(m)
if not record_lives(r) or r.seen + tonumber(ARGV[2]) > now then return false end
for _, sub in ipairs(r.subs) do
  if not sub_counted(sub, '', ARGV[4]) then return false end
end
for _, offset in ipairs(inbox_offsets(key)) do
  inbox_remove(key, 't', m, offset, redis.call('HGET', key, num(offset)), PASSED, SUPPRESSED)
end
for _, sub in ipairs(r.subs) do
  local log = sub.log == 'u' and 'u' .. r.user or sub.log
  if log ~= 't' and not sub.banned then record_leaves(r, log, ARGV[3], sub_settled(sub), now) end
end
r.user, r.subs = '', {}
m.record = record_pack(r)
meta_save(key, m)
return m.record
