-- A page of a log.
-- ARGV: kind, time shift, after, most entries, most bytes.
-- Answers now, head, evicted to, whether there is more, then offset, entry, long payload or nil, ...
local key, kind, after = KEYS[1], ARGV[1], tonumber(ARGV[3])
local entries_max, bytes_max = tonumber(ARGV[4]), tonumber(ARGV[5])
local m = meta_load(key, kind)
local out, entries, bytes, more = { now_ms(ARGV[2]), m.last, m.evicted, 0 }, 0, 0, false

-- False when the page is full.
local function add(offset, value)
  if entries > 0 and (entries >= entries_max or bytes >= bytes_max) then
    more = true
    return false
  end
  local _, _, size, aside = entry_head(value)
  out[#out + 1] = num(offset)
  out[#out + 1] = value
  out[#out + 1] = aside and redis.call('GET', key .. ':' .. num(offset)) or ''
  entries, bytes = entries + 1, bytes + size
  return true
end

if m.count > 0 and after < m.last then
  if kind == 's' or kind == 'b' then
    local from = after
    repeat
      local count = math.min(128, math.max(entries_max - entries, 0) + 1)
      local page = redis.call('XRANGE', key .. ':e', '(' .. num(from) .. '-0', '+', 'COUNT', count)
      for _, item in ipairs(page) do
        from = stream_offset(item[1])
        if not add(from, item[2][2]) then break end
      end
    until more or #page < count
  else
    -- A field is looked for from the beginning of a small hash: all at once is cheaper than one by one.
    local offsets, values = {}, {}
    if m.count <= 1024 then
      local all, last, sorted = redis.call('HGETALL', key), 0, true
      for i = 1, #all, 2 do
        local offset = tonumber(all[i]) or 0
        if offset > after then
          offsets[#offsets + 1], values[offset] = offset, all[i + 1]
          sorted, last = sorted and offset > last, offset
        end
      end
      if not sorted then table.sort(offsets) end
    else
      offsets = inbox_offsets(key)
    end
    for _, offset in ipairs(offsets) do
      if offset > after then
        local value = values[offset] or redis.call('HGET', key, num(offset))
        if not add(offset, value) then break end
      end
    end
  end
end
out[4] = more and 1 or 0
return out
