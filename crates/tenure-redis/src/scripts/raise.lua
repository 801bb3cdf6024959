-- Words: token, spare tokens, fresh or joined. For a quorum: my hold has this token on a majority. It is written
-- where my hold stands, and from now on the hold counts when it is proved. A fresh token must be above all that this
-- node has given to others; the token of a hold that a majority has just proved may be older.
-- slow --
local first, spare, kind = string.match(words, '^(%d+) (%d+) (%a+)$')
-- helpers --

-- rules --

bury()
promote(nil)
local answer, text = 'gone ' .. gone(), texts[me]
if text and string.sub(text, 1, 6) == 'holds ' then
  local place = place_of(text)
  first, spare = tonumber(first), tonumber(spare)
  local newest = place.first + tonumber(place.spare) == token and first >= place.first
  if kind == 'joined' or first > token or newest then
    token = math.max(token, first + spare)
    place.firsts, place.spare, place.slot = num(first), num(spare), '1'
    put(me, place, place.ends)
    answer = 'raised'
  else
    answer = 'higher ' .. num(token) .. ' ' .. num(now)
  end
end
commit(true)
return answer
