-- Counts what cursors passed in a log with many readers (I13): how many readers came past each
-- entry, given where their ranges begin and end, and entries that ended otherwise.
-- ARGV: kind, time shift, three that make it happen once: in a user's inbox the terminal, its settled
-- position before and now; else the teller, its batch, whose part is left out of it; behind which offset
-- to begin, up to which, most entries at once, when, how many edges, then for each offset, change by
-- acknowledgement, by gap; then for each exception offset, acknowledgements to take back, gaps to take
-- back, expired, undeliverable, suppressed.
-- Answers the offset it came to; 0 when it is done, or was before; 1 if nothing is taken from the
-- teller any more.
local key, kind, terminal = KEYS[1], ARGV[1], ARGV[3]
local now = now_ms(ARGV[2])
local from, up_to, limit = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

if kind == 'u' then
  local position = tonumber(redis.call('HGET', key .. ':m', terminal) or '')
  -- No reader any more, or counted before (exactly once).
  if not position or position >= tonumber(ARGV[5]) then return 0 end
  -- A count that never came: acknowledged.
  rows_passed(key, position, tonumber(ARGV[4]), BY_ACK, now)
  limit = -1
end

local teller, told = ARGV[3], nil
if kind ~= 'u' then
  if redis.call('HEXISTS', key, '0') == 0 then return 0 end
  told = told_load(key, teller)
  local batch = tonumber(ARGV[4])
  if batch < told.batch or (batch == told.batch and told.part == WHOLE) then return 0 end
  if told.closed > 0 then return 1 end
  if batch == told.batch then
    from = math.max(from, told.part)
  else
    told.batch, told.left_out, told.up_to = batch, ARGV[5], math.max(told.up_to, up_to)
  end
end

local passed_ms = tonumber(ARGV[9])
local at = 11
local edges_end = at + 3 * tonumber(ARGV[10])
local exceptions = {}
for i = edges_end, #ARGV, 6 do
  exceptions[tonumber(ARGV[i])] = i
end
local acks, gaps = 0, 0
local rows = rows_between(key, from, up_to, limit)
for i = 1, #rows, 2 do
  local offset = tonumber(rows[i + 1])
  while at < edges_end and tonumber(ARGV[at]) < offset do
    acks, gaps = acks + tonumber(ARGV[at + 1]), gaps + tonumber(ARGV[at + 2])
    at = at + 3
  end
  local exception = exceptions[offset]
  if acks > 0 or gaps > 0 or exception then
    local packed = redis.call('HGET', key .. ':c', rows[i])
    if packed then
      local row = counts_load(packed)
      local here_acks, here_gaps = acks, gaps
      if exception then
        here_acks = here_acks - tonumber(ARGV[exception + 1])
        here_gaps = here_gaps - tonumber(ARGV[exception + 2])
        row.expired = row.expired + tonumber(ARGV[exception + 3])
        row.undeliverable = row.undeliverable + tonumber(ARGV[exception + 4])
        row.suppressed = row.suppressed + tonumber(ARGV[exception + 5])
      end
      if here_acks > 0 then row_count(row, BY_ACK, here_acks, passed_ms) end
      if here_gaps > 0 then row_count(row, BY_GAP, here_gaps, passed_ms) end
      redis.call('HSET', key .. ':c', rows[i], counts_pack(row))
    end
  end
end
if kind == 'u' then
  redis.call('HSET', key .. ':m', terminal, ARGV[5])
  local m = meta_load(key, kind)
  user_trim(key, m)
  meta_save(key, m)
  return 0
end
local came_to = 0
if limit > 0 and #rows == 2 * limit then came_to = tonumber(rows[#rows]) end
if told then
  told.part = came_to > 0 and came_to or WHOLE
  told_save(key, teller, told)
end
return came_to
