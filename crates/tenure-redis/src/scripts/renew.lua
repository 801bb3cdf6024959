-- ARGV: claim, term.

-- helpers --

if head and line and got[3] then
  -- I hold or am offered the key, and nothing else is due: the common case, in as few calls as can be.
  local ends, kept = now + tonumber(ARGV[2]), tonumber(string.match(head, '^1 (%d+) %d+$') or 0)
  local state, until_now, rest = string.match(got[3], '^(%a+) (%d+) (.*)$')
  if (state == 'holds' or state == 'offered') and math.floor(ends / 1000) + KEPT <= kept then
    local ends_text = string.format('%d', ends)
    local text = 'holds ' .. ends_text .. ' ' .. rest
    local next = tonumber(string.match(line, '^%d+ (%d+)') or 0)
    if now < next and next <= ends then
      keep(me, text)
      return me .. ' renewed'
    end
    local limit, mode, only = string.match(line, '^0 %d+ 1 (%d+)\n(%a)\n(%x+)$')
    if only == me and now < tonumber(until_now) then
      keep('line', '0 ' .. string.format('%016d', ends) .. ' 1 ' .. limit .. '\n' .. mode .. '\n' .. me, me, text)
      return me .. ' renewed'
    end
  end
end

-- rules --

bury()
promote(nil)
local answer = confirm(tonumber(ARGV[2])) and 'renewed' or 'gone ' .. gone()
commit(true)
return me .. ' ' .. answer
