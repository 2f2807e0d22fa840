-- How a reader came past entries, and when (`at`): what is counted late was acknowledged all the same if
-- its entry was there at that time, and who left left what had not expired by then.
local BY_ACK, BY_GAP, BY_LEAVING = 1, 2, 3
local function row_count(row, how, readers, at)
  local field = 'acknowledged'
  local there = how == BY_ACK and at < row.expires + row.bytes
  if how ~= BY_ACK and row.stay == EVICTED then field = 'evicted'
  elseif how == BY_LEAVING then field = row.expires <= at and 'expired' or 'suppressed'
  elseif row.stay == EXPIRED and not there then field = 'expired' end
  row[field] = row[field] + readers
end

-- Messages of a log behind `after` up to `up_to`, in order, at most `limit`: pairs of id, offset.
local function rows_between(key, after, up_to, limit)
  return redis.call('ZRANGEBYSCORE', key .. ':o', '(' .. num(after), num(up_to), 'WITHSCORES',
    'LIMIT', 0, limit)
end

-- Counts one reader past everything behind `after` up to `up_to`.
local function rows_passed(key, after, up_to, how, at)
  if after >= up_to then return end
  local rows = rows_between(key, after, up_to, -1)
  for i = 1, #rows, 2 do
    local packed = redis.call('HGET', key .. ':c', rows[i])
    if packed then
      local row = counts_load(packed)
      row_count(row, how, 1, at)
      redis.call('HSET', key .. ':c', rows[i], counts_pack(row))
    end
  end
end
