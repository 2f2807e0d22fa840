-- Notes in which logs a message is, before it is in them: names, a line each.
-- ARGV: ms that the note lives, names of logs.
local known = redis.call('GET', KEYS[1])
local lines = known and known .. '\n' or ''
for i = 2, #ARGV do
  if not string.find('\n' .. lines, '\n' .. ARGV[i] .. '\n', 1, true) then
    lines = lines .. ARGV[i] .. '\n'
  end
end
lines = string.sub(lines, 1, -2)
if not known then
  redis.call('SET', KEYS[1], lines, 'PX', ARGV[1])
else
  if lines ~= known then redis.call('SET', KEYS[1], lines, 'KEEPTTL') end
  redis.call('PEXPIRE', KEYS[1], ARGV[1], 'GT')
end
return 0
