-- A terminal was seen: its retention slides. ARGV: time shift, ms that the record lives.
local m = meta_load(KEYS[1], 't')
local r = record_load(m)
if not record_lives(r) then return 0 end
r.seen = now_ms(ARGV[1])
m.record = record_pack(r)
meta_save(KEYS[1], m)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
