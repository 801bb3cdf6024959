-- Words: none, a dash.
-- slow --
-- helpers --

-- rules --

bury()
local text, answer = texts[me], 'absent'
if text and string.sub(text, 1, 4) ~= 'gone' then
  local term, channel = string.match(text, ' (%d+) %d+ %d+ (%x+) %x+$')
  answer = remove()
  entomb(me, 'evicted', tonumber(term))
  promote(nil)
  told[#told + 1] = { channel, me }
else
  promote(nil)
end
commit(true)
return answer
