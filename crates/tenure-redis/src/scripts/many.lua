-- Runs a verb for many claims, each on its own key, and answers for each as the verb alone would: in one text, with a
-- line for each behind a line that repeats the first argument, by which the client knows its answer. What fails for one
-- fails for it alone: its line begins with a dash. Words stand before the first claim for which they are meant, and
-- before each that has others; a claim is told from words by its length.
local words
local function slow(key, mine, head)
local me = sub(mine, 2, 33)
-- slow --
end

local keys, args, lines, at = KEYS, ARGV, { ARGV[1] }, 2
for i = 1, #keys do
  local mine = args[at]
  if #mine ~= MINE then
    words, mine, at = mine, args[at + 1], at + 1
-- words --
  end
  at = at + 1
  local key, answer = keys[i], nil
  local head = try('HGET', key, 'tenure')
-- fast --
  if not answer then
    local ran
    ran, answer = pcall(slow, key, mine, head)
    if not ran or type(answer) == 'table' then
      -- Errors of commands are tables or texts that begin with a code; before 7.0, texts like those of Lua itself.
      answer = type(answer) == 'table' and answer.err or answer
      if not find(answer, '^%u+ ') then answer = 'ERR Error running script: ' .. answer end
      answer = '-' .. string.gsub(answer, '[\r\n]', ' ')
    end
  end
  lines[i + 1] = answer
end
return table.concat(lines, '\n')
