-- Gives what is pending in a terminal's record another ticket, or takes it out (I13).
-- ARGV: log, its ticket so far, its new one or '' when it was counted, from where.
-- Answers whether it had that ticket.
local key = KEYS[1]
local m = meta_load(key, 't')
local r = record_load(m)
local sub = r and record_sub(r, ARGV[1])
if not sub or sub.pending == '' or string.sub(sub.pending, 1, TICKET_BYTES) ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  sub.pending = ''
else
  sub.pending = ARGV[3] .. struct.pack('<I7', tonumber(ARGV[4])) .. string.sub(sub.pending, TICKET_BYTES + 8)
end
m.record = record_pack(r)
meta_save(key, m)
return 1
