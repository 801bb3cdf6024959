-- Words: term.
-- once --
local term, ends, ends_text, kept_part
-- Read as if the digits were hexadecimal, which keeps their order, and takes a fraction of the time.
local second = number(clock[1], 16)
-- words --
term = tonumber(words)
ends = now + term
ends_text, kept_part = string.format('%016d', ends), string.format('1 %013d ', kept_for(ends))
-- fast --
if head and #head > 88 and find(head, mine, 33, true) == 33 and sub(head, 1, 16) == kept_part
  and (number(sub(head, 73, 82), 16) or 0) > second then
  -- Only I am in the line, nobody is buried, and my hold does not lapse in this second: the common case, in as few
  -- calls as can be.
  local done = try('HSET', key, 'tenure', sub(head, 1, 72) .. ends_text .. sub(head, 89))
  if done == 0 or done == 1 then answer = 'renewed' end
end
-- slow --
-- helpers --

if head and #head > 66 and string.sub(head, 1, 2) == '1 ' then
  -- I hold or am offered the key, and nothing else is due: the common case, in as few calls as can be.
  local kept = tonumber(string.sub(head, 3, 15))
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
    text = 'holds ' .. ends_text .. rest
    if first then keep('tenure', string.sub(head, 1, 66) .. text) else keep(me, text) end
    return 'renewed'
  end
end

-- rules --

bury()
promote(nil)
local answer = confirm(term) and 'renewed' or 'gone ' .. gone()
commit(true)
return answer
