-- Offsets of an inbox's live entries, in order. A small hash keeps the order of appending. What tellers
-- counted is in it too (told.lua).
local function inbox_offsets(key)
  local offsets, last, sorted = {}, 0, true
  for i, field in ipairs(redis.call('HKEYS', key)) do
    local offset = tonumber(field) or 0
    if offset > 0 then
      offsets[#offsets + 1] = offset
      sorted = sorted and offset > last
      last = offset
    end
  end
  if not sorted then table.sort(offsets) end
  return offsets
end
