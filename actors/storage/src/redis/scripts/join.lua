-- A terminal becomes a reader of a user's inbox, a topic or a broadcast.
-- ARGV: kind, time shift, ms that the log's key lives, terminal, whether it is new to the broadcast,
-- up to where it has settled a user's inbox already.
-- Answers the head; for a user's inbox, up to where its entries are not for this terminal; whether
-- the log is new. Asked twice it changes nothing again, but for the broadcast, whose registry says
-- whether the terminal is new.
local key, kind, terminal = KEYS[1], ARGV[1], ARGV[4]
local m, fresh = meta_load(key, kind)
local start = m.last
if kind == 'b' then
  m.readers = m.readers + tonumber(ARGV[5])
elseif kind == 's' then
  redis.call('ZADD', key .. ':m', 0, terminal)
else
  -- I3, I13: it starts at the oldest live entry, and is one more that each from there is for.
  local known = redis.call('HGET', key .. ':m', terminal)
  if known then
    start = tonumber(known)
  else
    local first = inbox_offsets(key)[1]
    if first then
      start = math.min(math.max(first - 1, tonumber(ARGV[6])), m.last)
      local rows = rows_between(key, start, m.last, -1)
      for i = 1, #rows, 2 do
        local packed = redis.call('HGET', key .. ':c', rows[i])
        if packed then
          local row = counts_load(packed)
          row.audience = row.audience + 1
          redis.call('HSET', key .. ':c', rows[i], counts_pack(row))
        end
      end
    end
    redis.call('HSET', key .. ':m', terminal, num(start))
  end
end
meta_save(key, m)
redis.call('PEXPIRE', key, ARGV[3])
redis.call('PEXPIRE', key .. ':m', ARGV[3])
return { m.last, start, fresh and 1 or 0 }
