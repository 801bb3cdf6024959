-- Reads what KEYS[1] says first, as it concerns the claim ARGV[1]. See docs/engines/redis.md for the fields.
-- Numbers leave Lua by '%d': tostring() would round microseconds. TIME is read once: it goes on inside a script.
local key, me = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local WINDOW, AHEAD, MAX, KEPT = 3000000, 100000, 9007199254740991, 1800000

-- "1 <kept until> <last token>": 32 letters. Behind them, the first place of the line: after a space, if it is all that
-- there is; after a plus, if the field `line` says more.
local head = redis.pcall('HGET', key, 'tenure')
