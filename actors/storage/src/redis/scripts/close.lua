-- What a teller has counted in a topic or broadcast (I13), and, if a batch is not among it and it is to
-- be so, that nothing more is taken from it: what it did not count it never will.
-- ARGV: kind, time shift, teller, batch, whether to close, behind which offset its part is, up to which.
-- Answers its newest batch, up to where it is counted if that is a part, else 0, whether it is closed,
-- whose part of the newest batch was left out; or '' if no message is left that could be counted.
local key, kind, teller, batch = KEYS[1], ARGV[1], ARGV[3], tonumber(ARGV[4])
local m, fresh = meta_load(key, kind)
if fresh or redis.call('ZCOUNT', key .. ':o', '(' .. ARGV[6], ARGV[7]) == 0 then return '' end
local told = told_load(key, teller)
local counted = batch < told.batch or (batch == told.batch and told.part == WHOLE)
if ARGV[5] == '1' and not counted and told.closed == 0 then
  told.closed = now_ms(ARGV[2])
  -- What it may yet try goes no further.
  told.up_to = math.max(told.up_to, m.last)
  told_save(key, teller, told)
end
return { told.batch, told.part == WHOLE and 0 or told.part, told.closed > 0 and 1 or 0, told.left_out }
