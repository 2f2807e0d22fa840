-- Removes from one log what expired a while ago, and records of messages whose time is over.
-- ARGV: kind, time shift, grace in ms, ms that the key lives, where to go on in a topic or broadcast
-- (0: at its beginning), soonest expiry seen so far, head at the beginning, most entries at once.
-- Answers entries and records removed, where to go on (0: through), soonest expiry, head at the
-- beginning, when the terminal was last seen (0: not known), whether there is such a log, the
-- terminal's record if something in it is pending or left.
local key, kind, shift = KEYS[1], ARGV[1], ARGV[2]
local now, grace = now_ms(shift), tonumber(ARGV[3])
local from, soonest, head, most = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local m, fresh = meta_load(key, kind)
local removed, records, resume, seen, record = 0, 0, 0, 0, ''
local before = meta_pack(m)
if not fresh then
  if kind == 't' or kind == 'u' then
    removed = inbox_expire(key, kind, m, now, grace)
  elseif m.count > 0 and (from > 0 or m.soonest + grace <= now) then
    if from == 0 then head = m.last end
    local page = redis.call('XRANGE', key .. ':e', '(' .. num(from) .. '-0', '+', 'COUNT', most)
    for _, item in ipairs(page) do
      from = stream_offset(item[1])
      local value = item[2][2]
      local _, expires = entry_head(value)
      if expires + grace <= now then
        stream_remove(key, kind, m, from, value, EXPIRED, now)
        removed = removed + 1
      elseif expires < soonest then
        soonest = expires
      end
    end
    if #page == most then resume = from
    -- What was appended meanwhile was not all looked at.
    elseif m.last == head then m.soonest = soonest end
    -- Redis keeps an empty stream.
    if m.count == 0 then redis.call('UNLINK', key .. ':e') end
  end
  local after = meta_pack(m)
  if after ~= before then redis.call('HSET', key, '0', after) end
  if kind == 't' then
    local r = record_load(m)
    seen = record_lives(r) and r.seen or 0
    if r and #r.left > 0 then record = m.record end
    for _, sub in ipairs(r and r.subs or {}) do
      if sub.pending ~= '' then record = m.record end
    end
  elseif redis.call('EXISTS', key .. ':m') == 1 or m.count > 0 or m.readers > 0 then
    redis.call('PEXPIRE', key, ARGV[4])
    redis.call('PEXPIRE', key .. ':m', ARGV[4])
  end
  if tonumber(ARGV[5]) == 0 and kind ~= 't' then told_prune(key, now) end
end
local rows = key .. ':c'
local length = redis.call('HLEN', rows)
if length > 0 and length <= 512 then
  records = rows_prune(key, kind, redis.call('HGETALL', rows), now)
elseif length > 0 then
  records = rows_prune(key, kind, redis.call('HRANDFIELD', rows, 512, 'WITHVALUES'), now)
end
return { removed, records, resume, soonest, head, seen, fresh and 0 or 1, record }
