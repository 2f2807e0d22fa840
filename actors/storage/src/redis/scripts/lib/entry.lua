-- An entry: predecessor, expiry in ms since 2025, twice the bytes that count plus whether the rest is
-- in a key of its own; message; rest.
local ENTRY = '<I7I5I3'
local ENTRY_HEAD = 15
local function entry_head(value)
  local predecessor, expires, size = struct.unpack(ENTRY, value)
  local aside = size % 2
  return predecessor, ORIGIN_MS + expires, (size - aside) / 2, aside == 1,
    string.sub(value, ENTRY_HEAD + 1, ENTRY_HEAD + 16)
end
