-- What a terminal left is done: its record forgets it, and goes if nothing else is in it.
-- ARGV: letter and name of the log, ticket. Answers whether an inbox is left of which nobody knows.
local key = KEYS[1]
local m = meta_load(key, 't')
local r = record_load(m)
local left, index
if r then left, index = record_left(r, ARGV[1]) end
if not left or left.ticket ~= ARGV[2] then return 0 end
table.remove(r.left, index)
local orphan = 0
if record_lives(r) or #r.left > 0 then
  m.record = record_pack(r)
elseif m.count > 0 then
  m.record, orphan = '', 1
else
  redis.call('DEL', key)
  return 0
end
meta_save(key, m)
return orphan
