-- In front of every script: time and numbers.
-- KEYS[1] is the main key of a log, registry or record; what belongs to it has the same hash tag:
--   :c  places and counts of its messages    :o  their order       :m  members or positions
--   :e  entries of a topic or broadcast      :<offset>  a long payload

local ORIGIN_MS = 1735689600000 -- where offsets begin to count: 2025-01-01
local OFFSET_END = 9007199254740992
local NEVER = 281474976710655 -- the highest time that fits six bytes
local EXPIRY_MAX = ORIGIN_MS + 1099511627775 -- and the highest expiry, in 2059
local KEPT_MS = 86400000 -- a message's record outlives it by a day

-- The store's time, Unix ms. `shift` is zero but in tests.
local function now_ms(shift)
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) + (tonumber(shift) or 0)
end

-- Numbers above 2^46 lose digits in Lua's own way of writing them.
local function num(value) return string.format('%.0f', value) end
