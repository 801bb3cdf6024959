-- ARGV: claim, term.

-- rules --

bury()
promote(nil)
local answer = confirm(tonumber(ARGV[2])) and 'renewed' or 'gone ' .. gone()
commit(true)
return me .. ' ' .. answer
