-- Words: spare tokens, floor.
-- slow --
local spares, floor = string.match(words, '^(%d+) (%d+)$')
-- helpers --

-- rules --

bury()
promote(nil)
local answer = 'gone ' .. gone()
local state = string.match(texts[me] or '', '^(%a+)')
if state == 'holds' or state == 'offered' then
  local first, spare = fresh(tonumber(floor), tonumber(spares))
  if first then
    local place = place_of(texts[me])
    place.firsts, place.spare = num(first), num(spare)
    put(me, place, place.ends)
    answer = 'fresh ' .. place.firsts .. ' ' .. place.spare
  end
end
commit(true)
return answer
