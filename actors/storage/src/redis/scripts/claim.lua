-- Claims an idempotency key. The record: message, expiry, until, keep until, first attempt, done,
-- hash, holder, outcome.
-- ARGV: time shift, message, hash, expiry, until, keep until, holder, a holder that is gone or ''.
-- Answers 0 new; 1 in progress, until, holder; 2 taken over, message, expiry, first attempt, outcome
-- so far or nothing; 3 done, message, outcome; 4 bound to another body.
local CLAIM = '<c16I6I6I6I6Bc32c8'
local key = KEYS[1]
local now = now_ms(ARGV[1])
local packed = redis.call('HGET', key, 'c')
local message, expires, until_ms, keep, first, state, hash, holder
if packed then
  message, expires, until_ms, keep, first, state, hash, holder = struct.unpack(CLAIM, packed)
end
local function write()
  redis.call('HSET', key, 'c', struct.pack(CLAIM, message, expires, until_ms, keep, first, state, hash,
    holder))
  redis.call('PEXPIRE', key, num(math.max(keep - now, 1)))
end
if not packed or keep <= now then
  redis.call('DEL', key)
  message, expires, until_ms, keep = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  first, state, hash, holder = now, 0, ARGV[3], ARGV[7]
  write()
  return { 0 }
end
if hash ~= ARGV[3] then return { 4 } end
local outcome = redis.call('HGET', key, 'o')
if state == 1 then return { 3, message, outcome } end
if until_ms > now and holder ~= ARGV[8] then return { 1, until_ms, holder } end
until_ms, keep, holder = tonumber(ARGV[5]), math.max(keep, tonumber(ARGV[6])), ARGV[7]
write()
return { 2, message, expires, first, outcome }
