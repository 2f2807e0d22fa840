-- A terminal's record, behind its inbox's state: generation; seconds since 2025 of when it was last
-- seen and registered; heartbeat in ms (0 none); kind (15 none) and whether there is a user; epoch;
-- user; then its logs, each with flags that say what it is and what follows; then what it left and is
-- not known to be out of yet. With that alone it is no terminal any more.
local RECORD, RECORD_BYTES = '<I6I4I4I3BI7', 25
local HAS_USER = 16
local TYPES, TYPE_OF = { [0] = 't', [1] = 'u', [2] = 'b', [3] = 's' }, { t = 0, u = 1, b = 2, s = 3 }
local F_BANNED, F_EPOCH, F_COUNTED, F_ATTEMPTS, F_CURSOR, F_PENDING = 4, 8, 16, 32, 64, 128
-- What its last saved cursor passed, but for its own inbox, until it is known to be counted there
-- (I13): a ticket (teller, batch, index in it), from where, when (ms since 2025), and what was not
-- acknowledged: offsets and outcomes.
local TICKET_BYTES, PENDING, PENDING_BYTES = 11, '<I5I4I2I7I5B', 24
-- A log it left: its letter and name, a ticket, up to where it had settled it, when (ms since 2025). The
-- own inbox, banned, is what no log is.
local LEFT, LEFT_REST = 4, '<I7I5'
local NOTHING = OFFSET_END - 1 -- settled up to there: what nothing is to be counted of
local function left_pack(left)
  return struct.pack('<BBc0', LEFT, #left.log, left.log) .. left.ticket
    .. struct.pack(LEFT_REST, left.settled, math.max(left.at - ORIGIN_MS, 0))
end
local function left_load(packed, at)
  local left = {}
  left.log, at = struct.unpack('<Bc0', packed, at)
  left.ticket, at = string.sub(packed, at, at + TICKET_BYTES - 1), at + TICKET_BYTES
  left.settled, left.at, at = struct.unpack(LEFT_REST, packed, at)
  left.at = ORIGIN_MS + left.at
  return left, at
end
local function record_load(m)
  local packed = m.record
  if packed == '' then return nil end
  local r, flags = { user = '', subs = {}, left = {} }, nil
  local seen, registered, kind
  r.generation, seen, registered, r.heartbeat, kind, r.epoch = struct.unpack(RECORD, packed)
  r.seen, r.registered = ORIGIN_MS + seen * 1000, ORIGIN_MS + registered * 1000
  r.kind = kind % HAS_USER
  local at = RECORD_BYTES + 1
  if kind >= HAS_USER then r.user, at = struct.unpack('<Bc0', packed, at) end
  local length = #packed
  while at <= length do
    local sub = { epoch = r.epoch, counted = 0, attempts = 0, cursor = 0, pending = '' }
    flags, at = string.byte(packed, at), at + 1
    if flags == LEFT then break end
    sub.log = TYPES[flags % 4]
    if sub.log == 's' then
      local topic
      topic, at = struct.unpack('<Bc0', packed, at)
      sub.log = 's' .. topic
    end
    sub.banned = bit.band(flags, F_BANNED) > 0
    if bit.band(flags, F_CURSOR) > 0 then sub.cursor, at = struct.unpack('<I7', packed, at) end
    if bit.band(flags, F_ATTEMPTS) > 0 then sub.attempts, at = struct.unpack('B', packed, at) end
    if bit.band(flags, F_EPOCH) > 0 then sub.epoch, at = struct.unpack('<I7', packed, at) end
    if bit.band(flags, F_COUNTED) > 0 then sub.counted, at = struct.unpack('<I7', packed, at) end
    if flags >= F_PENDING then
      local bytes = PENDING_BYTES + 8 * string.byte(packed, at + PENDING_BYTES - 1)
      sub.pending, at = string.sub(packed, at, at + bytes - 1), at + bytes
    end
    r.subs[#r.subs + 1] = sub
  end
  while flags == LEFT do
    r.left[#r.left + 1], at = left_load(packed, at)
    flags, at = string.byte(packed, at), at + 1
  end
  return r
end
-- Whether it is a terminal, or only what is left of one.
local function record_lives(r) return r and #r.subs > 0 end
local function record_pack(r)
  local kind = r.kind
  if r.user ~= '' then kind = kind + HAS_USER end
  local parts = { struct.pack(RECORD, r.generation, math.floor((r.seen - ORIGIN_MS) / 1000),
    math.floor((r.registered - ORIGIN_MS) / 1000), r.heartbeat, kind, r.epoch) }
  if r.user ~= '' then parts[2] = struct.pack('<Bc0', #r.user, r.user) end
  for _, sub in ipairs(r.subs) do
    local letter = string.sub(sub.log, 1, 1)
    local flags, tail = TYPE_OF[letter], ''
    if letter == 's' then tail = struct.pack('<Bc0', #sub.log - 1, string.sub(sub.log, 2)) end
    if sub.banned then flags = flags + F_BANNED end
    if sub.cursor > 0 then
      flags, tail = flags + F_CURSOR, tail .. struct.pack('<I7', sub.cursor)
    end
    if sub.attempts > 0 then
      flags, tail = flags + F_ATTEMPTS, tail .. struct.pack('B', sub.attempts)
    end
    if sub.epoch ~= r.epoch then
      flags, tail = flags + F_EPOCH, tail .. struct.pack('<I7', sub.epoch)
    end
    if sub.counted > sub.cursor then
      flags, tail = flags + F_COUNTED, tail .. struct.pack('<I7', sub.counted)
    end
    if sub.pending ~= '' then
      flags, tail = flags + F_PENDING, tail .. sub.pending
    end
    parts[#parts + 1] = string.char(flags) .. tail
  end
  for _, left in ipairs(r.left) do parts[#parts + 1] = left_pack(left) end
  return table.concat(parts)
end
local function record_sub(r, log)
  for i, sub in ipairs(r.subs) do
    if sub.log == log then return sub, i end
  end
end
local function record_left(r, log)
  for i, left in ipairs(r.left) do
    if left.log == log then return left, i end
  end
end
local function record_leaves(r, log, ticket, settled, now)
  r.left[#r.left + 1] = { log = log, ticket = ticket, settled = settled, at = now }
end
local function record_topics(r)
  local topics = 0
  for _, sub in ipairs(r.subs) do
    if not sub.banned and string.sub(sub.log, 1, 1) == 's' then topics = topics + 1 end
  end
  return topics
end
local function sub_new(log, epoch, cursor)
  return { log = log, epoch = epoch, cursor = cursor, counted = 0, attempts = 0, pending = '',
    banned = false }
end
-- A terminal that was not known: it reads its own inbox and the broadcast (I3).
local function record_new(now, epoch, broadcast)
  return { generation = 0, seen = now, registered = now, heartbeat = 0, kind = 15, epoch = epoch,
    user = '', left = {}, subs = { sub_new('t', epoch, 0), sub_new('b', epoch, broadcast) } }
end
-- Entries behind this are still to be counted for the reader.
local function sub_settled(sub) return math.max(sub.cursor, sub.counted) end
-- Whether nothing is pending, or it is known to be counted: `told` names tellers and the batch up to
-- which all of theirs is, `known` single tickets.
local function sub_counted(sub, told, known)
  if sub.pending == '' then return true end
  local teller, batch = struct.unpack('<I5I4', sub.pending)
  for at = 1, #told, 9 do
    local who, up_to = struct.unpack('<I5I4', told, at)
    if who == teller and batch <= up_to then return true end
  end
  local ticket = string.sub(sub.pending, 1, TICKET_BYTES)
  for at = 1, #known, TICKET_BYTES do
    if string.sub(known, at, at + TICKET_BYTES - 1) == ticket then return true end
  end
  return false
end
