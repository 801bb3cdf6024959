-- Reads the line of KEYS[1] as it concerns the claim ARGV[1]. See docs/engines/redis.md for the fields.
-- Numbers leave Lua by '%d': tostring() would round microseconds. TIME is read once: it goes on inside a script.
local key, me = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local WINDOW, AHEAD, MAX, KEPT = 3000000, 100000, 9007199254740991, 1800000

local got = redis.pcall('HMGET', key, 'tenure', 'line', me)
if got.err then
  if not string.find(got.err, 'WRONGTYPE', 1, true) then return got end
  return me .. ' foreign ' .. redis.call('TYPE', key).ok
end
local head, line = got[1], got[2]
if head then
  if string.sub(head, 1, 2) ~= '1 ' then return me .. ' foreign hash of another version' end
elseif redis.call('EXISTS', key) == 1 then
  return me .. ' foreign hash'
end
