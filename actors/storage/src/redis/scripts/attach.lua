-- Changes a terminal's record: a session opens, a topic is joined (I3, I7).
-- ARGV: time shift, ms that the record lives, epoch, 'open' or 'join', user, kind, most topics,
-- whether it lifts a ban, broadcast head or '', `counted` of the user's inbox or '', tellers and
-- up to where all of theirs is counted, tickets that are known to be counted, ticket of what it leaves,
-- then for each topic two: name, head or ''.
-- What begins at a head of another log needs that head: without it nothing changes and the answer is
-- 0, record before or '' and the names of the logs (b, u, s<topic>) to be joined first; p: what is pending
-- of the former user's inbox is to be counted first; l<log>: it left that log, which is to be done first.
-- Else: 1, record before or '', record now, head of the inbox, now. What was joined in vain it leaves.
local key = KEYS[1]
local shift, retention, epoch, mode = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local user, kind, topics_max, lifts = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1'
local broadcast, counted = ARGV[9], ARGV[10]
local now = now_ms(shift)
local m = meta_load(key, 't')
local before = m.record
local r = record_load(m)
local needs, vain, leaves = {}, {}, {}
if r and not record_lives(r) then
  for _, left in ipairs(r.left) do leaves[#leaves + 1] = 'l' .. left.log end
  return { 0, '', leaves }
end

local topics = r and record_topics(r) or 0
if not r then
  if broadcast == '' then needs[#needs + 1] = 'b' end
end
local rebinds = mode == 'open' and user ~= (r and r.user or '')
if rebinds and user ~= '' then
  if counted == '' then needs[#needs + 1] = 'u' end
  if r and record_left(r, 'u' .. user) then leaves[#leaves + 1] = 'lu' .. user end
end
local former = rebinds and r and record_sub(r, 'u')
if former and not sub_counted(former, ARGV[11], ARGV[12]) then needs[#needs + 1] = 'p' end
local joins = {}
for i = 14, #ARGV, 2 do
  local log, head = 's' .. ARGV[i], ARGV[i + 1]
  local sub = r and record_sub(r, log)
  local free = (not sub or (lifts and sub.banned)) and topics < topics_max and not joins[log]
  if free then
    topics = topics + 1
    joins[log] = true
    if r and record_left(r, log) then leaves[#leaves + 1] = 'l' .. log end
    if head == '' then needs[#needs + 1] = log
    else joins[#joins + 1] = { log, tonumber(head) } end
  elseif head ~= '' and not joins[log] and (not sub or sub.banned) then
    vain[#vain + 1] = { log, tonumber(head) }
  end
end
-- Joining comes after leaving.
if #leaves > 0 then return { 0, before, leaves } end
if #needs > 0 then return { 0, before, needs } end

local seen = r and r.seen or 0
if not r then
  r = record_new(now, epoch, tonumber(broadcast))
end
r.seen = now
if rebinds then
  local _, index = record_sub(r, 'u')
  if index then table.remove(r.subs, index) end
  if r.user ~= '' then record_leaves(r, 'u' .. r.user, ARGV[13], 0, now) end
  r.user = user
  if user ~= '' then
    local sub = sub_new('u', epoch, 0)
    sub.counted = tonumber(counted)
    r.subs[#r.subs + 1] = sub
  end
end
for _, join in ipairs(joins) do
  local _, index = record_sub(r, join[1])
  if index then table.remove(r.subs, index) end
  r.subs[#r.subs + 1] = sub_new(join[1], epoch, join[2])
end
for _, joined in ipairs(vain) do
  if not record_left(r, joined[1]) then record_leaves(r, joined[1], ARGV[13], joined[2], now) end
end
if mode == 'open' then
  r.kind = kind
  -- Carries time, so that it also rises when the record was gone in between.
  r.generation = math.max(r.generation + 1, now - ORIGIN_MS)
end
m.record = record_pack(r)
meta_save(key, m)
if seen + KEPT_MS <= now then redis.call('PEXPIRE', key, retention) end
return { 1, before, m.record, m.last, now }
