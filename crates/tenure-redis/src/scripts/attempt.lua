-- ARGV: claim, wish, term, spare tokens, floor, join or leave. A wish is what the place will say of it:
-- "<mode> <limit> <term> <asked> <floor> <connection> <card>".
local wish, term = ARGV[2], tonumber(ARGV[3])
local mode = string.sub(wish, 1, 1)

if not line then
  -- Nobody is in the line and nobody was buried: the common case, in as few calls and conversions as can be.
  local token = head and tonumber(string.sub(head, 17)) or 0
  local first, spare = math.max(math.max(token, tonumber(ARGV[5])) + 1, now), 0
  if ARGV[4] ~= '0' then
    spare = tonumber(ARGV[4])
    if first + spare <= MAX then spare = math.min(spare, math.max(0, now + AHEAD - first)) end
  end
  if first + spare <= MAX then
    local ends, kept = now + term, head and string.sub(head, 3, 15)
    local needed = math.floor(ends / 1000) + KEPT
    local expire = not kept or tonumber(kept) < needed
    if expire then kept = string.format('%013d', needed + KEPT) end
    local limit = mode == 'p' and string.match(wish, '^p (%d+)') or '0'
    redis.call('HSET', key, 'tenure', string.format('1 %s %d', kept, first + spare), 'line',
      string.format('0 %d 1 %s\n%s\n%s', ends, limit, mode, me), me,
      string.format('holds %d %d %d 0 %d %s', ends, first, spare, now, wish))
    if expire then redis.call('PEXPIREAT', key, kept) end
    return string.format('%s granted %d %d 0', me, first, spare)
  end
end

-- helpers --

-- In how many microseconds the next deadline before me comes. Far back in a long line, that of the first is near enough
-- for a hint.
local function deadline_before(index, claims, texts)
  if index == 1 then return 'none' end
  local ahead, soon = {}, MAX
  for i = 1, math.min(index - 1, 6) do ahead[i] = string.sub(claims, i * 32 - 31, i * 32) end
  local found = redis.call('HMGET', key, unpack(ahead))
  for i, claim in ipairs(ahead) do
    local text = texts[claim] or found[i] or error('FOREIGN damaged hash')
    soon = math.min(soon, tonumber(string.match(text, '^%a+ (%d+)')))
  end
  return string.format('%d', soon - now)
end

if head and line and ARGV[6] == 'join' then
  -- I go on waiting, or join behind others who exclude me, and nothing else is due.
  local next, at = string.match(line, '^%d+ (%d+) %d+ %d+\n()')
  local gap = at and string.find(line, '\n', at, true)
  local kept, token = string.match(head, '^1 (%d+) (%d+)$')
  local ends, waits, text = now + WINDOW, got[3] and string.match(got[3], '^waits %d+ (.*)$'), nil
  if gap and kept and now < tonumber(next) and math.floor(ends / 1000) + KEPT <= tonumber(kept) then
    if waits then
      -- Keep the place alive, and let the grant come where I listen now.
      text = string.format('waits %d %s%s', ends, string.sub(waits, 1, -34), string.sub(wish, -33))
    elseif not got[3] and mode == 'x' and gap > at then
      text = string.format('waits %d 0 0 0 %d %s', ends, now, wish)
    end
  end
  if text then
    local claims = string.sub(line, gap + 1)
    local index = waits and index_in(claims, me) or gap - at + 1
    local look_in = deadline_before(index, claims, {})
    if waits and tonumber(next) <= ends then
      keep(me, text)
    else
      local modes = string.sub(line, at, gap - 1)
      if not waits then modes, claims = modes .. 'x', claims .. me end
      local graves, rest = string.match(line, '^(%d+) %d+ (%d+ %d+\n)')
      line = graves .. string.format(' %016d ', math.min(tonumber(next), ends)) .. rest .. modes .. '\n' .. claims
      if waits then keep('line', line, me, text) else redis.call('HSET', key, 'line', line, me, text) end
    end
    return me .. string.format(' waiting %d %s %s', index - 1, look_in, token)
  end
end

-- rules --

local joined, refused, agreed = false, nil, limit
bury()
local answer
if texts[me] and string.sub(texts[me], 1, 4) == 'gone' then
  answer = 'gone ' .. gone()
  promote(nil)
else
  if not texts[me] then
    if mode == 'p' then
      local wanted = tonumber(string.match(wish, '^p (%d+)'))
      if string.find(modes, 'p', 1, true) then
        if limit ~= wanted then refused = 'limit ' .. num(limit) end
      else
        limit = wanted
      end
    end
    if not refused then
      joined = true
      modes, claims = modes .. mode, claims .. me
      texts[me] = 'waits 0 0 0 0 ' .. num(now) .. ' ' .. wish
    end
  end
  if refused then
    answer = refused
    promote(nil)
  else
    promote(me)
    local place = confirm(term)
    if place then
      answer = 'granted ' .. place.firsts .. ' ' .. place.spare .. ' ' .. place.slot
    else
      local index = index_in(claims, me)
      answer = num(index - 1) .. ' ' .. deadline_before(index, claims, texts) .. ' ' .. num(token)
      if joined and ARGV[6] == 'leave' then
        cut(index)
        texts[me], limit = nil, agreed
        answer = 'busy ' .. answer
      else
        -- Keep the place alive, and let the grant come where I listen now.
        local place = place_of(texts[me])
        place.rest = string.sub(place.rest, 1, -34) .. string.sub(wish, -33)
        put(me, place, now + WINDOW)
        answer = 'waiting ' .. answer
      end
    end
  end
end
commit(not joined)
return me .. ' ' .. answer
