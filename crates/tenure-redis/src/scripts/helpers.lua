-- Writes also at the server's memory limit, where writes are let through once one that needs no memory has been.
local function keep(...)
  if type(redis.pcall('HSET', key, ...)) == 'table' then
    redis.call('HDEL', key, '-')
    redis.call('HSET', key, ...)
  end
end

-- The index of a claim among claims, from one.
local function index_in(claims, claim)
  local at = 1
  while true do
    at = string.find(claims, claim, at, true)
    if not at then return nil end
    if at % 32 == 1 then return (at - 1) / 32 + 1 end
    at = at + 1
  end
end
