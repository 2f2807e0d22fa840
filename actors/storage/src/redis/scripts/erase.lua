-- Removes a terminal that was not seen for the retention, with its inbox. ARGV: time shift,
-- retention in ms, tickets that are known to be counted. Answers its record, or nothing if it was seen
-- since, or something its cursors passed is not known to be counted.
local key = KEYS[1]
local now = now_ms(ARGV[1])
local m = meta_load(key, 't')
local r = record_load(m)
if not r or r.seen + tonumber(ARGV[2]) > now then return false end
for _, sub in ipairs(r.subs) do
  if not sub_counted(sub, '', ARGV[3]) then return false end
end
for _, offset in ipairs(inbox_offsets(key)) do
  inbox_remove(key, 't', m, offset, redis.call('HGET', key, num(offset)), PASSED, SUPPRESSED)
end
redis.call('DEL', key)
return m.record
