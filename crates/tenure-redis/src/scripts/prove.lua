-- Words: term. For a quorum: only a hold that a majority has agreed on (its slot is 1, see raise) stands and goes
-- on for the term. A place that was granted here alone, or came back after it was lost, proves nothing.
-- slow --
-- helpers --

-- rules --

bury()
promote(nil)
local answer, text = 'gone ' .. gone(), texts[me]
if text and string.sub(text, 1, 6) == 'holds ' and place_of(text).slot == '1' then
  local place = confirm(tonumber(words))
  answer = 'proved ' .. place.firsts .. ' ' .. place.spare .. ' ' .. num(token) .. ' ' .. num(now)
end
commit(true)
return answer
