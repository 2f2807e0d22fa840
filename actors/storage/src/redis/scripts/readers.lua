-- Terminals of a user, behind a name. ARGV: name or ''. In no order: they are few.
local names = {}
for _, name in ipairs(redis.call('HKEYS', KEYS[1] .. ':m')) do
  if name > ARGV[1] then names[#names + 1] = name end
end
return names
