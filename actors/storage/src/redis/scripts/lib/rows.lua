local LIVE, EXPIRED, EVICTED, PASSED = 0, 1, 2, 3 -- whether an entry is in its log

-- The place of a message in a terminal's inbox: offset, expiry, outcome (0 none), delivered.
-- In any other log, its counts: offset, expiry, stay, bytes (of an entry that expired: how many ms after
-- its expiry it was removed), audience, delivered, acknowledged,
-- expired, undeliverable, suppressed, evicted.
local PLACE = '<I7I6BB'
local COUNTS = '<I7I6BI4I4I4I4I4I4I4I4'
local function counts_load(packed)
  local r = {}
  r.offset, r.expires, r.stay, r.bytes, r.audience, r.delivered, r.acknowledged, r.expired,
    r.undeliverable, r.suppressed, r.evicted = struct.unpack(COUNTS, packed)
  return r
end
local function counts_pack(r)
  return struct.pack(COUNTS, r.offset, r.expires, r.stay, r.bytes, r.audience, r.delivered,
    r.acknowledged, r.expired, r.undeliverable, r.suppressed, r.evicted)
end

-- Says in a message's place or counts what became of its entry. `outcome` is for a terminal's inbox.
local function row_ended(key, kind, message, stay, outcome, now)
  local packed = redis.call('HGET', key .. ':c', message)
  if not packed then return end
  if kind == 't' then
    local offset, expires, _, delivered = struct.unpack(PLACE, packed)
    redis.call('HSET', key .. ':c', message, struct.pack(PLACE, offset, expires, outcome, delivered))
  else
    local row = counts_load(packed)
    row.stay = stay
    if stay == EXPIRED then row.bytes = math.min(math.max(now - row.expires, 0), 4294967295) end
    redis.call('HSET', key .. ':c', message, counts_pack(row))
  end
end

-- Makes a key live for at least `ms` from now.
local function live_at_least(key, ms, fresh)
  if fresh then redis.call('PEXPIRE', key, num(ms))
  else redis.call('PEXPIRE', key, num(ms), 'GT') end
end
