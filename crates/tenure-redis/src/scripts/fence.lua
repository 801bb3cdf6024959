-- KEYS: the fence, then the data if it is to be set. ARGV: token, slot, then the value. A user's own script may begin
-- like this one: it must refuse a stale token in the same step in which it writes.
local mark = redis.pcall('HGET', KEYS[1], ARGV[2])
if type(mark) == 'table' then return mark end
if mark and not string.match(mark, '^%d+$') then return redis.error_reply('FOREIGN the mark is no number') end
if mark and tonumber(mark) > tonumber(ARGV[1]) then return { 0, mark } end
if mark ~= ARGV[1] then redis.call('HSET', KEYS[1], ARGV[2], ARGV[1]) end
if KEYS[2] then redis.call('SET', KEYS[2], ARGV[3]) end
return { 1, ARGV[1] }
