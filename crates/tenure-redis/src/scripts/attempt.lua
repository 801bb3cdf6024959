-- Words: join or leave, and a wish, which is what the place will say of it:
-- "<mode> <limit> <term> <asked> <floor> <connection> <card>".
-- once --
local how, wish, term, asked, floor, ends, kept_part, tail, granted
-- words --
how, wish, term, asked, floor = string.match(words, '^(%a+) (%a %d+ (%d+) (%d+) (%d+) .*)$')
ends, floor, kept_part = now + term, floor + 0, nil
if asked == '0' and floor < now and now <= MAX then
  kept_part = string.format('1 %013d ', kept_for(ends))
  tail = string.format('%016d', ends) .. ' ' .. stamp .. ' 0 0 ' .. stamp .. ' ' .. wish
  granted = 'granted ' .. stamp .. ' 0 0'
end
-- fast --
if head and #head == 32 and kept_part == sub(head, 1, 16) and (number(sub(head, 17)) or MAX) < now then
  -- Nobody is in the line and nobody was buried, the line is kept for long enough, and the time is above the last
  -- token: the common case, in as few calls and new texts as can be. A refusal is the slow path's to report.
  local done = try('HSET', key, 'tenure', kept_part .. stamp .. mine .. tail)
  if done == 0 or done == 1 then answer = granted end
end
-- slow --
local mode, kept, last = sub(wish, 1, 1), nil, nil
if not head then
  if redis.call('EXISTS', key) == 0 then kept, last = 0, 0 end
elseif #head == 32 then
  kept, last = string.match(head, '^1 (%d+) (%d+)$')
  kept, last = number(kept), number(last)
end
if kept and last then
  -- Nobody is in the line and nobody was buried.
  local first, spare = math.max(now, last + 1, floor + 1), tonumber(asked)
  if first + spare <= MAX and (spare == 0 or first + spare <= now + AHEAD) then
    local expire = kept < math.floor(ends / 1000) + KEPT
    if expire then kept = kept_for(ends) end
    redis.call('HSET', key, 'tenure', string.format('1 %013d %016d%s%016d %016d %s 0 %s %s', kept, first + spare, mine,
      ends, first, asked, stamp, wish))
    if expire then redis.call('PEXPIREAT', key, string.format('%d', kept)) end
    return string.format('granted %d %s 0', first, asked)
  end
end

-- helpers --

if how == 'join' and head and #head > 66 and string.sub(head, 1, 2) == '1 ' and string.byte(head, 67) ~= 119 then
  -- I join behind others who exclude me, or go on waiting, and nothing else is due. (119 is the w of "waits".)
  local ends = tonumber(string.match(head, '^%a+ (%d+)', 67))
  local lapse, kept = now + WINDOW, tonumber(string.sub(head, 3, 15))
  local alone, first = string.byte(head, 33) == 32, string.sub(head, 34, 65)
  if not ends or not kept or first == me or math.floor(lapse / 1000) + KEPT > kept then
    -- Not so easy.
  elseif alone and mode == 'x' and now < ends then
    redis.call('HSET', key, 'tenure', string.sub(head, 1, 32) .. '+' .. string.sub(head, 34),
      'line', string.format('0 %016d 1\nx\n%s', math.min(ends, lapse), me),
      me, string.format('waits %d 0 0 0 %d %s', lapse, now, wish))
    return string.format('waiting 1 %d %s', ends - now, string.sub(head, 17, 32))
  elseif not alone then
    local got = redis.call('HMGET', key, 'line', me)
    local line, text = got[1], got[2]
    local graves, next, granted, at = string.match(line or '', '^(%d+) (%d+) (%d+)\n()')
    local gap = at and string.find(line, '\n', at, true)
    local waits = text and string.match(text, '^waits %d+ (.*)$')
    local ahead
    if not gap or now >= tonumber(next) then
      -- Not so easy.
    elseif waits then
      -- Keep the place alive, and let the grant come where I listen now.
      ahead = index_in(string.sub(line, gap + 1), me)
      text = string.format('waits %d %s%s', lapse, string.sub(waits, 1, -34), string.sub(wish, -33))
      if tonumber(next) <= lapse then
        keep(me, text)
      else
        keep('line', string.format('%s %016d %s\n', graves, lapse, granted) .. string.sub(line, at), me, text)
      end
    elseif not text and mode == 'x' then
      ahead = gap - at + 1
      redis.call('HSET', key,
        'line', string.format('%s %016d %s\n', graves, math.min(tonumber(next), lapse), granted)
          .. string.sub(line, at, gap - 1) .. 'x' .. string.sub(line, gap) .. me,
        me, string.format('waits %d 0 0 0 %d %s', lapse, now, wish))
    end
    if ahead then
      return string.format('waiting %d %d %s', ahead, ends - now, string.sub(head, 17, 32))
    end
  end
end

-- rules --

local joined, refused = false, nil
bury()
local answer
if texts[me] and string.sub(texts[me], 1, 4) == 'gone' then
  answer = 'gone ' .. gone()
  promote(nil)
else
  if not texts[me] then
    if mode == 'p' then
      local limit = limit_in_force()
      if limit and limit ~= tonumber(string.match(wish, '^p (%d+)')) then refused = 'limit ' .. num(limit) end
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
      -- A hint: whoever is ahead, the first one's end is when the line may move.
      local look_in = index == 1 and 'none' or num(ends_of(text_of(claim_at(1))) - now)
      answer = num(index - 1) .. ' ' .. look_in .. ' ' .. num(token)
      if joined and how == 'leave' then
        cut(index)
        texts[me] = nil
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
return answer
