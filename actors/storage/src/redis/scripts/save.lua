-- Writes a terminal's cursors: `max` within the epoch, fenced by generation (I5, I7), and settles
-- what they pass in its own inbox (I13). What they pass in other logs is noted as pending, under
-- a ticket, and counted there afterwards.
-- ARGV: time shift, ms that the record lives, tellers and up to where all of theirs is counted, when this
-- was asked for, then for each cursor: log (t, b, u<user>, s<topic>), generation, epoch, cursor,
-- attempts, heartbeat (0 as it was), head of the log ('' for its own), ticket ('' for its own), a ticket
-- that is known to be counted or '', how many exceptions, then offset and outcome of each.
-- Answers for each: 0 saved, settled before, settled now; 1 stale; 2 no reader; 3 above the head;
-- 4 something pending is not known to be counted: that, up to where it goes; nothing is saved. Then what
-- it left and is not known to be out of.
local key = KEYS[1]
local now = now_ms(ARGV[1])
local told, asked_ms = ARGV[3], tonumber(ARGV[4])
local m = meta_load(key, 't')
local before, r = meta_pack(m), record_load(m)
local out, dirty = {}, false

local function settle_inbox(after, up_to, at, count)
  for i = at, at + 2 * count - 1, 2 do
    local offset, outcome = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
    if offset > after and offset <= up_to and outcome ~= ACKNOWLEDGED then
      local value = redis.call('HGET', key, ARGV[i])
      if value then
        local _, _, _, _, message = entry_head(value)
        row_ended(key, 't', message, LIVE, outcome)
      end
    end
  end
  inbox_passed(key, 't', m, up_to)
end

local function exceptions(at, count)
  local items = { struct.pack('B', count) }
  for i = at, at + 2 * count - 1, 2 do
    items[#items + 1] = struct.pack('<I7B', tonumber(ARGV[i]), tonumber(ARGV[i + 1]))
  end
  return table.concat(items)
end

local function save(log, generation, epoch, cursor, attempts, heartbeat, head, ticket, known, at, count)
  if not record_lives(r) then return { 2 } end
  if generation < r.generation then return { 1 } end
  local name = log
  if string.sub(log, 1, 1) == 'u' then
    if string.sub(log, 2) ~= r.user then return { 2 } end
    name = 'u'
  end
  local sub = record_sub(r, name)
  if not sub or sub.banned then return { 2 } end
  if log == 't' then
    head = m.last
  end
  if cursor > tonumber(head) then return { 3 } end
  local replaces, settled = sub.epoch ~= epoch, sub_settled(sub)
  if cursor < sub.cursor and not replaces then return { 0, settled, settled } end
  if not sub_counted(sub, told, known) then return { 4, sub.pending, settled } end
  if log == 't' and settled < cursor then settle_inbox(settled, cursor, at, count) end
  if replaces or cursor ~= sub.cursor or attempts ~= sub.attempts or generation ~= r.generation
    or (heartbeat ~= 0 and heartbeat ~= r.heartbeat) then
    sub.pending = ''
    if ticket ~= '' and settled < cursor then
      sub.pending = ticket .. struct.pack('<I7I5', settled, math.max(asked_ms - ORIGIN_MS, 0)) .. exceptions(at, count)
    end
    -- A cursor of another epoch may be replaced by a lower one; what it had counted stays.
    sub.counted = settled > cursor and settled or 0
    sub.epoch, sub.cursor, sub.attempts = epoch, cursor, attempts
    r.generation = generation
    if heartbeat ~= 0 then r.heartbeat = heartbeat end
    dirty = true
  end
  return { 0, settled, math.max(settled, cursor) }
end

local at = 5
while at <= #ARGV do
  local count = tonumber(ARGV[at + 9])
  out[#out + 1] = save(ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]),
    tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), ARGV[at + 6],
    ARGV[at + 7], ARGV[at + 8], at + 10, count)
  at = at + 10 + 2 * count
end
if dirty then
  if r.seen + KEPT_MS <= now then redis.call('PEXPIRE', key, ARGV[2]) end
  r.seen = now
  m.record = record_pack(r)
end
if meta_pack(m) ~= before then meta_save(key, m) end
for _, left in ipairs(r and r.left or {}) do out[#out + 1] = left_pack(left) end
return out
