-- What a verb needs once. KEYS are lines; ARGV says with which words, and for whose claim: see docs/engines/redis.md.
-- Numbers leave Lua by '%d': tostring() would round microseconds. TIME is read once: it goes on inside a script.
local try, sub, find, number = redis.pcall, string.sub, string.find, tonumber
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
-- The same as 16 digits, as times are written. Digits are compared as numbers, since how texts compare is up to a locale.
local stamp = #clock[1] == 10 and #clock[2] == 6 and clock[1] .. clock[2] or string.format('%016d', now)
local WINDOW, AHEAD, MAX, KEPT = 3000000, 100000, 9007199254740991, 1800000

-- Until when a line is kept whose last deadline this is, in milliseconds: for 30 to 60 minutes more, on the half hour,
-- so that most lines of one moment say the same.
local function kept_for(ends) return (math.floor(ends / 1800000000) + 2) * KEPT end
