-- Drops records of messages whose time is over, among `packed` pairs of message and record.
local function rows_prune(key, kind, pairs_of, now)
  local removed = 0
  for i = 1, #pairs_of, 2 do
    local _, expires = struct.unpack('<I7I6', pairs_of[i + 1])
    if expires + KEPT_MS <= now then
      removed = removed + redis.call('HDEL', key .. ':c', pairs_of[i])
      if kind ~= 't' then redis.call('ZREM', key .. ':o', pairs_of[i]) end
    end
  end
  return removed
end
