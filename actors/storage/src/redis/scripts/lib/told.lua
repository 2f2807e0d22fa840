-- What a teller has counted in a log (I13): its newest batch; up to where, if only a part of it was; up
-- to where its batches go; since when nothing more is taken from it (0: it goes on); when a terminal last
-- left under it (0: none did); then those whose part of the newest batch was left out. A batch below the
-- newest is counted as a whole. Fields of the log's main key; they go when all messages they speak of
-- are gone.
local TOLD, TOLD_BYTES, WHOLE = '<I4I7I7I6I6', 30, OFFSET_END
local function told_field(teller) return 'w' .. teller end
local function told_load(key, teller)
  local told = { batch = 0, part = WHOLE, up_to = 0, closed = 0, left = 0, left_out = '' }
  local packed = redis.call('HGET', key, told_field(teller))
  if packed then
    told.batch, told.part, told.up_to, told.closed, told.left = struct.unpack(TOLD, packed)
    told.left_out = string.sub(packed, TOLD_BYTES + 1)
  end
  return told
end
local function told_save(key, teller, told)
  redis.call('HSET', key, told_field(teller),
    struct.pack(TOLD, told.batch, told.part, told.up_to, told.closed, told.left) .. told.left_out)
end
-- Removes those of whose messages none is left: what they would count again is nothing. Of who left for a
-- day: until then somebody may ask again.
local function told_prune(key, now)
  local oldest = redis.call('ZRANGE', key .. ':o', 0, 0, 'WITHSCORES')[2]
  oldest = tonumber(oldest) or OFFSET_END
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) == 'w' then
      local _, _, up_to, closed, left = struct.unpack(TOLD, all[i + 1])
      if up_to < oldest and closed + 3600000 <= now and left + KEPT_MS <= now then
        redis.call('HDEL', key, all[i])
      end
    end
  end
end
