-- Removes from a user's inbox what all of its terminals have passed.
local function user_trim(key, m)
  if m.count == 0 then return end
  local least
  for _, position in ipairs(redis.call('HVALS', key .. ':m')) do
    position = tonumber(position)
    if not least or position < least then least = position end
  end
  if least then inbox_passed(key, 'u', m, least) end
end
