-- A terminal's record or '', the head of its inbox, now. ARGV: time shift.
local m = meta_load(KEYS[1], 't')
return { m.record, m.last, now_ms(ARGV[1]) }
