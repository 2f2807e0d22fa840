-- Records the outcome of a claimed request. ARGV: message, done, outcome. The record as `claim.lua`.
local CLAIM = '<c16I6I6I6I6Bc32c8'
local key = KEYS[1]
local packed = redis.call('HGET', key, 'c')
if not packed then return 0 end
local message, expires, _, keep, first, state, hash, holder = struct.unpack(CLAIM, packed)
if message ~= ARGV[1] or state == 1 then return 0 end
redis.call('HSET', key, 'c', struct.pack(CLAIM, message, expires, 0, keep, first, tonumber(ARGV[2]),
  hash, holder), 'o', ARGV[3])
return 1
