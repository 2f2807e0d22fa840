-- Products in the order of their names. ARGV: one name and '', or '', behind which, most.
-- Answers name, record, ...
local out, names = {}, { ARGV[1] }
if ARGV[1] == '' then
  local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
  names = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, ARGV[3])
end
for _, name in ipairs(names) do
  local record = redis.call('GET', KEYS[1] .. ':' .. name)
  if record then
    out[#out + 1] = name
    out[#out + 1] = record
  end
end
return out
