-- A log's state: field `0`, the first of the hash; the fields of entries are their offsets. Of one
-- length, so that it is replaced in place. Behind a terminal's own is the terminal's record. Times
-- count from 2025; the soonest expiry is in minutes, rounded down.
local STATE, STATE_BYTES = '<I7I3I4I3', 17
local STATE_MANY = '<I7I3I4I3I7I4' -- with what only topics, broadcasts and users' inboxes have
local MINUTES_NEVER = 16777215
local function meta_load(key, kind)
  local packed = redis.call('HGET', key, '0')
  local m = { kind = kind, last = 0, evicted = 0, count = 0, bytes = 0, soonest = NEVER, readers = 0,
    record = '' }
  if not packed then return m, true end
  local minutes
  if kind == 't' then
    m.last, m.count, m.bytes, minutes = struct.unpack(STATE, packed)
    m.record = string.sub(packed, STATE_BYTES + 1)
  else
    m.last, m.count, m.bytes, minutes, m.evicted, m.readers = struct.unpack(STATE_MANY, packed)
  end
  if minutes < MINUTES_NEVER then m.soonest = ORIGIN_MS + minutes * 60000 end
  return m, false
end
local function meta_pack(m)
  local minutes = math.min(math.floor((m.soonest - ORIGIN_MS) / 60000), MINUTES_NEVER)
  if m.kind == 't' then return struct.pack(STATE, m.last, m.count, m.bytes, minutes) .. m.record end
  return struct.pack(STATE_MANY, m.last, m.count, m.bytes, minutes, m.evicted, m.readers)
end
local function meta_save(key, m) redis.call('HSET', key, '0', meta_pack(m)) end
