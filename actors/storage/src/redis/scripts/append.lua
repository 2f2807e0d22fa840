-- Appends to one log (I2, I6, I8).
-- ARGV: kind (t u s b), time shift, ms that the log's key lives, then for each entry nine: message,
-- rest, expiry, bytes, not after, whether it is a retry, most entries, most bytes, evict or refuse.
-- Longer rests than 1 KiB go to a key of their own.
-- Answers whether the log is new, then for each: 0 appended, offset, predecessor, audience, evicted;
-- 1 found, the same; 2 too late; 3 full; 4 out of offsets.
local key, kind = KEYS[1], ARGV[1]
local now = now_ms(ARGV[2])
local wide = kind == 's' or kind == 'b'
local m, fresh = meta_load(key, kind)
-- The clock of a server that took over may be behind, by what clocks may differ: time in a log goes on
-- from its last append, or an attempt that is over could still come through after its retry (I2).
-- A last append further ahead was made by a clock that was wrong.
local last_ms = ORIGIN_MS + math.floor(m.last / 4096)
if m.last > 0 and last_ms > now and last_ms <= now + 4000 then now = last_ms end
local out, fields, soonest = { fresh and 1 or 0 }, {}, m.soonest
local kept_longest = 0

local function audience()
  if kind == 't' then return 1 end
  if kind == 'b' then return m.readers end
  return redis.call(kind == 's' and 'ZCARD' or 'HLEN', key .. ':m')
end

local function flush()
  if #fields == 0 then return end
  for from = 1, #fields, 2000 do
    redis.call('HSET', key, unpack(fields, from, math.min(from + 1999, #fields)))
  end
  fields = {}
end

local function found(packed, message)
  local offset = struct.unpack('<I7', packed)
  local value, predecessor, readers = nil, 0, 1
  if wide then
    local item = redis.call('XRANGE', key .. ':e', num(offset) .. '-0', num(offset) .. '-0')[1]
    value = item and item[2][2]
  else
    flush()
    value = redis.call('HGET', key, num(offset))
  end
  -- An entry that is gone cannot be hinted; nobody continues at offset zero.
  if value then predecessor = entry_head(value) end
  if kind ~= 't' then readers = counts_load(packed).audience end
  return { 1, offset, predecessor, readers, 0 }
end

-- Makes room for one more entry; nil if there is none.
local function room(size, entries_max, bytes_max, evict)
  local function fits() return m.count < entries_max and m.bytes + size <= bytes_max end
  if fits() then return 0 end
  if size > bytes_max or entries_max == 0 then return nil end
  if not wide then
    flush()
    inbox_expire(key, kind, m, now, 0)
    soonest = m.soonest
    return fits() and 0 or nil
  end
  local evicted = 0
  while not fits() do
    if not evict then return nil end
    local oldest = redis.call('XRANGE', key .. ':e', '-', '+', 'COUNT', 1)[1]
    if not oldest then return nil end
    local value = oldest[2][2]
    local _, expires = entry_head(value)
    local stay = expires <= now and EXPIRED or EVICTED
    stream_remove(key, kind, m, stream_offset(oldest[1]), value, stay, now)
    if stay == EVICTED then evicted = evicted + 1 end
  end
  return evicted
end

local function append(message, rest, expires, size, evicted)
  local offset = math.max(m.last + 1, (now - ORIGIN_MS) * 4096)
  if offset >= OFFSET_END then return { 4 } end
  local predecessor, readers, rows = m.last, audience(), key .. ':c'
  local aside = #rest > 1024
  local value = struct.pack(ENTRY, predecessor, expires - ORIGIN_MS, 2 * size + (aside and 1 or 0)) .. message
  local kept = math.max(expires - now, 0) + KEPT_MS
  kept_longest = math.max(kept_longest, kept)
  if aside then
    redis.call('SET', key .. ':' .. num(offset), rest, 'PX', num(kept))
  else
    value = value .. rest
  end
  local row
  if kind == 't' then
    row = struct.pack(PLACE, offset, expires, 0, 0)
  else
    row = counts_pack({ offset = offset, expires = expires, stay = LIVE, bytes = size,
      audience = readers, delivered = 0, acknowledged = 0, expired = 0, undeliverable = 0,
      suppressed = 0, evicted = 0 })
    redis.call('ZADD', key .. ':o', num(offset), message)
  end
  redis.call('HSET', rows, message, row)
  local length = redis.call('HLEN', rows)
  live_at_least(rows, kept, length == 1)
  if kind ~= 't' then live_at_least(key .. ':o', kept, length == 1) end
  -- Old records go a few at a time, wherever they are: two looked at for each that is added.
  if length >= 64 and string.byte(message, 16) % 8 == 0 then
    rows_prune(key, kind, redis.call('HRANDFIELD', rows, 16, 'WITHVALUES'), now)
  end
  if wide then
    redis.call('XADD', key .. ':e', num(offset) .. '-0', 'e', value)
  else
    fields[#fields + 1] = num(offset)
    fields[#fields + 1] = value
  end
  m.last, m.count, m.bytes = offset, m.count + 1, m.bytes + size
  soonest = math.min(soonest, expires)
  m.soonest = soonest
  return { 0, offset, predecessor, readers, evicted }
end

-- First of the hash, whatever is written before the end.
if fresh then meta_save(key, m) end
for i = 4, #ARGV, 9 do
  local message, rest = ARGV[i], ARGV[i + 1]
  local expires = math.min(math.max(tonumber(ARGV[i + 2]), ORIGIN_MS), EXPIRY_MAX)
  local size = math.min(tonumber(ARGV[i + 3]), 8388607)
  local packed = ARGV[i + 5] == '1' and redis.call('HGET', key .. ':c', message)
  if packed then
    out[#out + 1] = found(packed, message)
  elseif now > tonumber(ARGV[i + 4]) then
    out[#out + 1] = { 2 }
  else
    local evicted = room(size, tonumber(ARGV[i + 6]), tonumber(ARGV[i + 7]), ARGV[i + 8] == '1')
    out[#out + 1] = evicted and append(message, rest, expires, size, evicted) or { 3 }
  end
end
if fresh and m.last == 0 then
  redis.call('DEL', key)
  return out
end
-- The state and the entries in one command; the state keeps its place and its length.
table.insert(fields, 1, meta_pack(m))
table.insert(fields, 1, '0')
flush()
if fresh then live_at_least(key, math.max(tonumber(ARGV[3]), kept_longest), true)
-- A log that is older than its key is meant to live.
elseif kept_longest > 0 then live_at_least(key, kept_longest, false) end
return out
