-- Words: possible or impossible (an attempt may still arrive), term.
-- once --
local last_word
-- Read as if the digits were hexadecimal, which keeps their order, and takes a fraction of the time.
local second = number(clock[1], 16)
-- words --
last_word = sub(words, 1, 1) == 'i'
-- fast --
if last_word and head and #head > 88 and find(head, mine, 33, true) == 33 and sub(head, 1, 2) == '1 '
  and (number(sub(head, 73, 82), 16) or 0) > second then
  -- Only I am in the line, nobody is buried, and my hold does not lapse in this second: the common case, in as few
  -- calls as can be.
  local done = try('HSET', key, 'tenure', sub(head, 1, 32))
  if done == 0 or done == 1 then answer = 'held' end
end
-- slow --
if last_word and head and #head > 66 and string.sub(head, 34, 65) == me
  and string.sub(head, 1, 2) == '1 ' then
  -- I am the first in the line. Behind "holds" or "offered", of which 104 is the h, is my deadline.
  local at = string.byte(head, 67) == 104 and 73 or 75
  local ends = tonumber(string.sub(head, at, at + 15))
  if not ends or now >= ends then
    -- Not so easy.
  elseif string.byte(head, 33) == 32 then
    -- Only I am in the line, and nobody is buried: the common case, in as few calls as can be.
    if type(redis.pcall('HSET', key, 'tenure', string.sub(head, 1, 32))) == 'number' then return 'held' end
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
        return 'held'
      end
    end
  end
end

-- helpers --

-- rules --

bury()
local answer = remove()
if not last_word then entomb(me, 'withdrawn', tonumber(string.match(words, '%d+'))) end
promote(nil)
commit(true)
return answer
