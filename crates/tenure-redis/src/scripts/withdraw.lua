-- ARGV: claim, term, possible or impossible (an attempt may still arrive).

if line and got[3] and ARGV[3] == 'impossible' and string.sub(line, -32) == me
  and string.byte(line, -33) == 10
  and string.sub(line, 1, 2) == '0 ' and now < tonumber(string.sub(line, 3, 18)) then
  -- Only I am in the line, and nobody is buried: the common case, in as few calls as can be.
  redis.call('HDEL', key, 'line', me)
  return me .. (string.sub(got[3], 1, 5) == 'waits' and ' waited' or ' held')
end

if head and line and got[3] and ARGV[3] == 'impossible' then
  -- I hold, another waits behind me, both exclusively, and nothing else is due: the key goes to the next one.
  local next, limit, at = string.match(line, '^0 (%d+) 1 (%d+)\nx()x')
  local gap = at and string.find(line, '\n', at, true)
  local kept, token = string.match(head, '^1 (%d+) (%d+)$')
  if gap and kept and now < tonumber(next) and string.sub(line, gap + 1, gap + 32) == me then
    local heir = string.sub(line, gap + 33, gap + 64)
    local wish, asked, floor, channel = string.match(redis.call('HGET', key, heir) or '',
      '^waits %d+ 0 0 0 %d+ (x 0 %d+ (%d+) (%d+) (%x+) %x+)$')
    local first = wish and math.max(math.max(tonumber(token), tonumber(floor)) + 1, now)
    local ends = now + WINDOW
    if wish and first <= MAX and math.floor(ends / 1000) + KEPT <= tonumber(kept) then
      local spare = math.min(tonumber(asked), math.max(0, math.min(now + AHEAD, MAX) - first))
      local grant = string.format('%d %d 0', first, spare)
      redis.call('HDEL', key, me)
      redis.call('HSET', key, 'tenure', string.format('1 %s %d', kept, first + spare),
        'line', string.format('0 %016d 1 %s\n', math.min(tonumber(next), ends), limit)
          .. string.sub(line, at, gap) .. string.sub(line, gap + 33),
        heir, string.format('offered %d %s %d %s', ends, grant, now, wish))
      redis.pcall('PUBLISH', 'tenure:to:' .. channel, heir .. ' ' .. grant)
      return me .. ' held'
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
