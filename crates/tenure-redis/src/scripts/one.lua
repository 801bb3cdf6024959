local words, mine, key = ARGV[1], ARGV[2], KEYS[1]
-- words --

-- "1 <kept until> <last token>": 32 letters. Behind them, the first place of the line: after a space, if it is all that
-- there is; after a plus, if the field `line` says more.
local head, answer = try('HGET', key, 'tenure'), nil
-- fast --

local me = sub(mine, 2, 33)
if answer then return me .. ' ' .. answer end

local function slow()
-- slow --
end

answer = slow()
return type(answer) == 'table' and answer or me .. ' ' .. answer
