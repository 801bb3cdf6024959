-- ARGV: claim, term, possible or impossible (an attempt may still arrive).

if line and got[3] and ARGV[3] == 'impossible' and string.sub(line, -32) == me
  and string.byte(line, -33) == 10
  and string.sub(line, 1, 2) == '0 ' and now < tonumber(string.sub(line, 3, 18)) then
  -- Only I am in the line, and nobody is buried: the common case, in as few calls as can be.
  redis.call('HDEL', key, 'line', me)
  return me .. (string.sub(got[3], 1, 5) == 'waits' and ' waited' or ' held')
end

-- rules --

bury()
local answer = remove()
if ARGV[3] == 'possible' then entomb(me, 'withdrawn', tonumber(ARGV[2])) end
promote(nil)
commit(true)
return me .. ' ' .. answer
