-- Takes an entry out of a topic or broadcast.
local function stream_remove(key, kind, m, offset, value, stay, now)
  local _, _, size, aside, message = entry_head(value)
  redis.call('XDEL', key .. ':e', num(offset) .. '-0')
  if aside then redis.call('UNLINK', key .. ':' .. num(offset)) end
  m.count = math.max(0, m.count - 1)
  m.bytes = math.max(0, m.bytes - size)
  if stay == EVICTED and offset > m.evicted then m.evicted = offset end
  row_ended(key, kind, message, stay, 0, now)
end
local function stream_offset(id) return tonumber(string.match(id, '^%d+')) end
