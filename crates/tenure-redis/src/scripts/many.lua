-- Runs a verb for many claims, each on its own key with as many arguments as STRIDE says, and answers for each as the
-- verb alone would. What fails for one fails for it alone.
local clock = redis.call('TIME')
local function verb(KEYS, ARGV)
-- verb --
end

local answers, key, arguments = {}, {}, {}
for i = 1, #KEYS do
  for j = 1, STRIDE do arguments[j] = ARGV[(i - 1) * STRIDE + j] end
  key[1] = KEYS[i]
  local ran, answer = pcall(verb, key, arguments)
  if not ran then
    -- Errors of commands are tables or texts that begin with a code; before 7.0, texts like those of Lua itself.
    answer = type(answer) == 'table' and answer.err or answer
    if not string.find(answer, '^%u+ ') then answer = 'ERR Error running script: ' .. answer end
    answer = redis.error_reply(answer)
  end
  answers[i] = answer
end
return answers
