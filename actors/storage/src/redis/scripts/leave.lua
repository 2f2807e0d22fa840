-- A terminal is no reader any more, and what it had not settled counts as left, as of when it left
-- (I13): so many messages at a time. Its ticket makes it happen once, whoever asks and how often.
-- ARGV: kind, time shift, terminal, teller, batch, up to where it had settled, when it left, most
-- messages at once, not after: later nothing happens, for by then the log may have forgotten the ticket,
-- and it may be a reader anew (I2).
-- Answers 0 when that is done, or was; 1 if it is to be asked again; 2 when it came too late.
local key, kind, terminal = KEYS[1], ARGV[1], ARGV[3]
local teller, batch, at, limit = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[7]), tonumber(ARGV[8])
local now = now_ms(ARGV[2])
if now > tonumber(ARGV[9]) then return 2 end
local m, fresh = meta_load(key, kind)
if fresh then return 0 end
local told = told_load(key, teller)
if batch < told.batch or (batch == told.batch and told.part == WHOLE) then return 0 end

if batch > told.batch then
  -- From where on it is counted; nothing of one who was none.
  local from = tonumber(ARGV[6])
  if kind == 'b' then
    m.readers = math.max(0, m.readers - 1)
  elseif kind == 's' then
    if redis.call('ZREM', key .. ':m', terminal) == 0 then from = m.last end
  else
    from = tonumber(redis.call('HGET', key .. ':m', terminal) or '') or m.last
    redis.call('HDEL', key .. ':m', terminal)
  end
  told.batch, told.part, told.left_out, told.left = batch, from, '', now
  -- Who comes to it later is for others.
  told.up_to = m.last
end

local rows = told.part < told.up_to and rows_between(key, told.part, told.up_to, limit) or {}
for i = 1, #rows, 2 do
  local packed = redis.call('HGET', key .. ':c', rows[i])
  if packed then
    local row = counts_load(packed)
    row_count(row, BY_LEAVING, 1, at)
    redis.call('HSET', key .. ':c', rows[i], counts_pack(row))
  end
end
local goes_on = #rows == 2 * limit
told.part = goes_on and tonumber(rows[#rows]) or WHOLE
told_save(key, teller, told)
if kind == 'u' then user_trim(key, m) end
if kind ~= 's' then meta_save(key, m) end
return goes_on and 1 or 0
