-- ARGV: claim, wish, term, spare tokens, floor, join or leave. A wish is what the place will say of it:
-- "<mode> <limit> <term> <asked> <floor> <connection> <card>".
local wish, term = ARGV[2], tonumber(ARGV[3])
local mode = string.sub(wish, 1, 1)

if not line then
  -- Nobody is in the line and nobody was buried: the common case, in as few calls and conversions as can be.
  local token = head and tonumber(string.sub(head, 17)) or 0
  local floor, spare = tonumber(ARGV[5]), tonumber(ARGV[4])
  local first = math.max(math.max(token, floor) + 1, now)
  if first + spare <= MAX then
    if spare > 0 then spare = math.min(spare, math.max(0, now + AHEAD - first)) end
    local ends, kept = now + term, head and string.sub(head, 3, 15)
    local needed = math.floor(ends / 1000) + KEPT
    local expire = not kept or tonumber(kept) < needed
    if expire then kept = string.format('%013d', needed + KEPT) end
    local firsts, spares = string.format('%d', first), string.format('%d', spare)
    local lasts = spare == 0 and firsts or string.format('%d', first + spare)
    local nows = first == now and firsts or string.format('%d', now)
    ends = string.format('%d', ends)
    local limit = mode == 'p' and string.match(wish, '^p (%d+)') or '0'
    redis.call('HSET', key, 'tenure', '1 ' .. kept .. ' ' .. lasts, 'line',
      '0 ' .. ends .. ' 1 ' .. limit .. '\n' .. mode .. '\n' .. me, me,
      'holds ' .. ends .. ' ' .. firsts .. ' ' .. spares .. ' 0 ' .. nows .. ' ' .. wish)
    if expire then redis.call('PEXPIREAT', key, kept) end
    return me .. ' granted ' .. firsts .. ' ' .. spares .. ' 0'
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
      local index = index_of(me)
      -- The next deadline before me. Far back in a long line, that of the first is near enough for a hint.
      local ahead, found, soon = {}, {}, MAX
      for i = 1, math.min(index - 1, 16) do ahead[i] = claim_at(i) end
      if ahead[1] then found = redis.call('HMGET', key, unpack(ahead)) end
      for i, claim in ipairs(ahead) do
        soon = math.min(soon, ends_of(texts[claim] or found[i] or error('FOREIGN damaged hash')))
      end
      answer = num(index - 1) .. ' ' .. (ahead[1] and num(soon - now) or 'none') .. ' ' .. num(token)
      if joined and ARGV[6] == 'leave' then
        cut(index)
        texts[me], limit = nil, agreed
        answer = 'busy ' .. answer
      else
        -- Keep the place alive, and let the grant come where I listen now.
        local place = place_of(texts[me])
        place.rest = string.gsub(place.rest, '%x+ %x+$', string.match(wish, '%x+ %x+$'), 1)
        put(me, place, now + WINDOW)
        answer = 'waiting ' .. answer
      end
    end
  end
end
commit(not joined)
return me .. ' ' .. answer
