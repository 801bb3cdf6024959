-- ARGV: claim, term.

-- helpers --

if head and #head > 66 and string.sub(head, 1, 2) == '1 ' then
  -- I hold or am offered the key, and nothing else is due: the common case, in as few calls as can be.
  local ends, kept = now + tonumber(ARGV[2]), tonumber(string.sub(head, 3, 15))
  local next, text = 0, nil
  local first = string.sub(head, 34, 65) == me
  if first and string.byte(head, 33) == 32 then
    next, text = MAX, string.sub(head, 67)
  elseif first then
    next, text = string.match(redis.call('HGET', key, 'line') or '', '^%d+ (%d+) '), string.sub(head, 67)
  else
    local got = redis.call('HMGET', key, 'line', me)
    next, text = string.match(got[1] or '', '^%d+ (%d+) '), got[2]
  end
  next = tonumber(next or 0)
  local state, until_now, rest = string.match(text or '', '^(%a+) (%d+)( .*)$')
  if (state == 'holds' or state == 'offered') and now < tonumber(until_now) and now < next
    and (next == MAX or next <= ends) and kept and math.floor(ends / 1000) + KEPT <= kept then
    text = string.format('holds %016d', ends) .. rest
    if first then keep('tenure', string.sub(head, 1, 66) .. text) else keep(me, text) end
    return me .. ' renewed'
  end
end

-- rules --

bury()
promote(nil)
local answer = confirm(tonumber(ARGV[2])) and 'renewed' or 'gone ' .. gone()
commit(true)
return me .. ' ' .. answer
