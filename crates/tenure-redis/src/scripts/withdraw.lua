-- ARGV: claim, term, possible or impossible (an attempt may still arrive).

if head and #head > 66 and ARGV[3] == 'impossible' and string.sub(head, 34, 65) == me
  and string.sub(head, 1, 2) == '1 ' then
  -- I am the first in the line. Behind "holds" or "offered", of which 104 is the h, is my deadline.
  local at = string.byte(head, 67) == 104 and 73 or 75
  local ends = tonumber(string.sub(head, at, at + 15))
  if not ends or now >= ends then
    -- Not so easy.
  elseif string.byte(head, 33) == 32 then
    -- Only I am in the line, and nobody is buried: the common case, in as few calls as can be.
    if type(redis.pcall('HSET', key, 'tenure', string.sub(head, 1, 32))) == 'number' then return me .. ' held' end
  else
    -- Another waits behind me, both exclusively, and nothing else is due: the key goes to the next one.
    local line = redis.call('HGET', key, 'line') or ''
    local next, at = string.match(line, '^0 (%d+) 1\nx()')
    local gap = at and string.find(line, '\n', at, true)
    local kept, last = tonumber(string.sub(head, 3, 15)), tonumber(string.sub(head, 17, 32))
    if gap and kept and last and now < tonumber(next) then
      local heir, lapse = string.sub(line, gap + 1, gap + 32), now + WINDOW
      local wish, asked, floor, channel = string.match(redis.call('HGET', key, heir) or '',
        '^waits %d+ 0 0 0 %d+ (x 0 %d+ (%d+) (%d+) (%x+) %x+)$')
      local first = wish and math.max(math.max(last, tonumber(floor)) + 1, now)
      if wish and first <= MAX and math.floor(lapse / 1000) + KEPT <= kept then
        local spare = math.min(tonumber(asked), math.max(0, math.min(now + AHEAD, MAX) - first))
        local grant = string.format('%d %d 0', first, spare)
        head = string.format('%s%016d%s%s offered %016d %s %d %s', string.sub(head, 1, 16), first + spare,
          gap > at and '+' or ' ', heir, lapse, grant, now, wish)
        if gap > at then
          redis.call('HDEL', key, heir)
          redis.call('HSET', key, 'tenure', head, 'line', string.format('0 %016d 1\n', math.min(tonumber(next), lapse))
            .. string.sub(line, at, gap) .. string.sub(line, gap + 33))
        else
          redis.call('HDEL', key, heir, 'line')
          redis.call('HSET', key, 'tenure', head)
        end
        redis.pcall('PUBLISH', 'tenure:to:' .. channel, heir .. ' ' .. grant)
        return me .. ' held'
      end
    end
  end
end

-- helpers --

-- rules --

bury()
local answer = remove()
if ARGV[3] == 'possible' then entomb(me, 'withdrawn', tonumber(ARGV[2])) end
promote(nil)
commit(true)
return me .. ' ' .. answer
