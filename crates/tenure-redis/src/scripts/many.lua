-- Runs a verb for many claims, each on its own key with as many arguments as STRIDE says, and answers for each as the
-- verb alone would. What fails for one fails for it alone.
local clock = redis.call('TIME')
local function verb(KEYS, ARGV)
-- verb --
end

local answers, arguments = {}, {}
for i = 1, #KEYS do
  for j = 1, STRIDE do arguments[j] = ARGV[(i - 1) * STRIDE + j] end
  local ran, answer = pcall(verb, { KEYS[i] }, arguments)
  if not ran then
    -- Errors of commands are tables, or, before 7.0, texts like those of Lua itself.
    answer = redis.error_reply(type(answer) == 'table' and answer.err or 'ERR Error running script: ' .. answer)
  end
  answers[i] = answer
end
return answers
