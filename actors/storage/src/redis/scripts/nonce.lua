-- Uses nonces of one minute: KEYS[1] is the set of that minute.
-- ARGV: time shift, minute, window in s, most nonces, then the nonces as numbers.
-- Answers for each 1 first use, 0 used before, 2 no room. What is outside of the window is the
-- caller's to refuse and is not remembered.
local key = KEYS[1]
local now_s = now_ms(ARGV[1]) / 1000
local ends_s = (tonumber(ARGV[2]) + 1) * 60 + tonumber(ARGV[3])
local out = {}
if ends_s <= now_s then redis.call('UNLINK', key) end
for i = 5, #ARGV do
  if ends_s <= now_s then
    out[#out + 1] = 1
  elseif redis.call('SISMEMBER', key, ARGV[i]) == 1 then
    out[#out + 1] = 0
  elseif redis.call('SCARD', key) >= tonumber(ARGV[4]) then
    out[#out + 1] = 2
  else
    redis.call('SADD', key, ARGV[i])
    out[#out + 1] = 1
  end
end
if ends_s > now_s then redis.call('PEXPIRE', key, num(math.ceil((ends_s - now_s) * 1000) + 60000)) end
return out
