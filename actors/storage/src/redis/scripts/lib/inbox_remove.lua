-- Takes an entry out of an inbox. `stay` and `outcome` as above; no outcome: it was acknowledged.
local function inbox_remove(key, kind, m, offset, value, stay, outcome, now)
  local _, _, size, aside, message = entry_head(value)
  redis.call('HDEL', key, num(offset))
  if aside then redis.call('UNLINK', key .. ':' .. num(offset)) end
  m.count = m.count - 1
  m.bytes = math.max(0, m.bytes - size)
  if outcome ~= 0 then row_ended(key, kind, message, stay, outcome, now) end
end

-- Outcomes in a terminal's inbox, as `codec.rs` numbers them.
local ACKNOWLEDGED, GONE_EXPIRED, UNDELIVERABLE, SUPPRESSED, GONE_EVICTED = 1, 2, 3, 4, 5

-- Removes the entries of an inbox whose time was over `grace` ms ago.
local function inbox_expire(key, kind, m, now, grace)
  if m.count == 0 or m.soonest + grace > now then return 0 end
  local removed, soonest = 0, NEVER
  for _, offset in ipairs(inbox_offsets(key)) do
    local value = redis.call('HGET', key, num(offset))
    local _, expires = entry_head(value)
    if expires + grace <= now then
      inbox_remove(key, kind, m, offset, value, EXPIRED, GONE_EXPIRED, now)
      removed = removed + 1
    elseif expires < soonest then
      soonest = expires
    end
  end
  m.soonest = soonest
  return removed
end

-- Removes the entries of an inbox up to `up_to`, which every reader has passed.
local function inbox_passed(key, kind, m, up_to)
  if m.count == 0 then return end
  for _, offset in ipairs(inbox_offsets(key)) do
    if offset > up_to then break end
    local value = redis.call('HGET', key, num(offset))
    inbox_remove(key, kind, m, offset, value, PASSED, kind == 't' and 0 or ACKNOWLEDGED)
  end
  if m.count == 0 then m.soonest = NEVER end
end
