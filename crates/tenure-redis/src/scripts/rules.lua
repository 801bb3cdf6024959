-- The bookkeeping of a line that has more than one easy case: a mirror of the pure ledger, rule by rule.
local function num(n) return string.format('%d', n) end

-- `tenure` is "1 <kept until> <last token>".
local kept, token = 0, 0
if head then
  local a, b = string.match(head, '^1 (%d+) (%d+)$')
  if not a then return me .. ' foreign damaged hash' end
  kept, token = tonumber(a), tonumber(b)
end

-- `line` is "<graves> <next> <granted> <limit>\n<modes>\n<claims>"; `next` is never later than any deadline.
local next, granted, graves, limit, modes, claims = MAX, 0, 0, 0, '', ''
if line then
  local a, b, c, d, at = string.match(line, '^(%d+) (%d+) (%d+) (%d+)\n()')
  local gap = at and string.find(line, '\n', at, true)
  if not gap then return me .. ' foreign damaged hash' end
  graves, next, granted, limit = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  modes, claims = string.sub(line, at, gap - 1), string.sub(line, gap + 1)
  if #claims ~= 32 * #modes then return me .. ' foreign damaged hash' end
end
local was, had = line, token
local texts = { [me] = got[3] or nil } -- The fields of claims, as far as they are known.
local sets, dels, told, latest = {}, {}, {}, 0

-- The next token by the hybrid rule, above `floor`, with at most `spare` behind it; none at the end of the range.
local function fresh(floor, spare)
  local first = math.max(math.max(token, floor) + 1, math.min(now, MAX))
  if first > MAX then return nil end
  spare = math.min(spare, math.max(0, math.min(now + AHEAD, MAX) - first))
  token = first + spare
  return first, spare
end

local function set(claim, text, ends)
  texts[claim] = text
  sets[#sets + 1], sets[#sets + 2] = claim, text
  next, latest = math.min(next, ends), math.max(latest, ends)
end

local function text_of(claim)
  local text = texts[claim] or redis.call('HGET', key, claim)
  if not text then error('FOREIGN damaged hash: no field ' .. claim) end
  texts[claim] = text
  return text
end

local function ends_of(text) return tonumber(string.match(text, '^%a+ (%d+)')) end

-- A place is "<state> <ends> <token> <spare> <slot> <since> <mode> <limit> <term> <asked> <floor> <channel> <card>".
local function place_of(text)
  local state, ends, first, spare, slot, rest =
    string.match(text, '^(%a+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  return { state = state, ends = tonumber(ends), first = tonumber(first), firsts = first, spare = spare, slot = slot,
           rest = rest }
end

local function put(claim, place, ends)
  set(claim, place.state .. ' ' .. num(ends) .. ' ' .. place.firsts .. ' ' .. place.spare .. ' ' .. place.slot .. ' '
    .. place.rest, ends)
end

local function claim_at(index) return string.sub(claims, index * 32 - 31, index * 32) end

local function cut(index)
  modes = string.sub(modes, 1, index - 1) .. string.sub(modes, index + 1)
  claims = string.sub(claims, 1, index * 32 - 32) .. string.sub(claims, index * 32 + 1)
  if index <= granted then granted = granted - 1 end
end

-- Drops what is dead now. Only when `next` has come can anything be.
local function bury()
  if now < next then return end
  local all, dead = redis.call('HGETALL', key), {}
  next, graves = MAX, 0
  for i = 1, #all, 2 do
    local claim, text = all[i], all[i + 1]
    if #claim == 32 then
      local ends = ends_of(text)
      if ends <= now then
        dead[claim], dels[#dels + 1], texts[claim] = true, claim, nil
      else
        texts[claim], next = text, math.min(next, ends)
        if string.sub(text, 1, 4) == 'gone' then graves = graves + 1 end
      end
    end
  end
  local kept_modes, kept_claims, kept_granted = {}, {}, 0
  for index = 1, #modes do
    local claim = claim_at(index)
    if not dead[claim] then
      kept_claims[#kept_claims + 1] = claim
      kept_modes[#kept_modes + 1] = string.sub(modes, index, index)
      if index <= granted then kept_granted = kept_granted + 1 end
    end
  end
  modes, claims, granted = table.concat(kept_modes), table.concat(kept_claims), kept_granted
end

-- How many places at the head of the line fit together.
local function prefix()
  local head = string.sub(modes, 1, 1)
  if head == '' then return 0 end
  if head == 'x' then return 1 end
  local run = (string.find(modes, '[^' .. head .. ']') or #modes + 1) - 1
  if head == 'p' then run = math.min(run, limit) end
  return run
end

-- The lowest permit that no granted place has.
local function free_slot()
  local taken, unread = {}, {}
  for index = 1, granted do
    local claim = claim_at(index)
    if not texts[claim] then unread[#unread + 1] = claim end
  end
  for from = 1, #unread, 1000 do
    local to = math.min(from + 999, #unread)
    for i, text in ipairs(redis.call('HMGET', key, unpack(unread, from, to))) do
      texts[unread[from + i - 1]] = text or nil
    end
  end
  for index = 1, granted do
    taken[tonumber(place_of(text_of(claim_at(index))).slot)] = true
  end
  local slot = 0
  while taken[slot] do slot = slot + 1 end
  return slot
end

-- Offers the key to everybody whom the rule grants and who has no token. All but `mine` are told.
local function promote(mine)
  local to = prefix()
  while granted < to do
    local claim = claim_at(granted + 1)
    local place = place_of(text_of(claim))
    local _, mode, limits, term, asked, floor, channel, card =
      string.match(place.rest, '^(%d+) (%a) (%d+) (%d+) (%d+) (%d+) (%x+) (%x+)$')
    local first, spare = fresh(tonumber(floor), tonumber(asked))
    if not first then return end
    place.state, place.firsts, place.spare = 'offered', num(first), num(spare)
    place.slot = mode == 'p' and num(free_slot()) or '0'
    place.rest = table.concat({ num(now), mode, limits, term, asked, floor, channel, card }, ' ')
    granted = granted + 1
    put(claim, place, now + WINDOW)
    if claim ~= mine then
      told[#told + 1] = { channel, table.concat({ claim, place.firsts, place.spare, place.slot }, ' ') }
    end
  end
end

-- My place, if it was granted; it then holds for `term` from now on.
local function confirm(term)
  local text = texts[me]
  if not text or string.sub(text, 1, 4) == 'gone' or string.sub(text, 1, 5) == 'waits' then return nil end
  local place = place_of(text)
  place.state = 'holds'
  put(me, place, now + term)
  return place
end

-- Why I have no place.
local function gone()
  return string.match(texts[me] or '', '^gone %d+ (%a+)') or 'absent'
end

local function entomb(claim, why, term)
  local ends = now + term
  local text = texts[claim]
  if text and string.sub(text, 1, 4) == 'gone' then
    ends, why = math.max(ends, ends_of(text)), string.match(text, '^gone %d+ (%a+)')
  else
    graves = graves + 1
  end
  set(claim, 'gone ' .. num(ends) .. ' ' .. why, ends)
end

-- Takes me out of the line, whatever my state.
local function remove()
  local text = texts[me]
  if not text or string.sub(text, 1, 4) == 'gone' then return 'absent' end
  cut(index_in(claims, me))
  dels[#dels + 1], texts[me] = me, nil
  return string.sub(text, 1, 5) == 'waits' and 'waited' or 'held'
end

-- Writes what has changed and tells whom it concerns. `must`: also when the server is at its memory limit. Even when
-- nothing has changed something is written, which proves that this server takes writes at all.
local function commit(must)
  if #modes > 0 or graves > 0 then
    line = num(graves) .. ' ' .. string.format('%016d', next) .. ' ' .. num(granted) .. ' ' .. num(limit) .. '\n'
      .. modes .. '\n' .. claims
    if line ~= was then sets[#sets + 1], sets[#sets + 2] = 'line', line end
  elseif was then
    dels[#dels + 1] = 'line'
  end
  local needed = math.floor(latest / 1000) + KEPT
  local expire = #sets > 0 and kept < needed
  if expire then kept = needed + KEPT end
  if expire or token ~= had then
    sets[#sets + 1], sets[#sets + 2] = 'tenure', '1 ' .. num(kept) .. ' ' .. num(token)
  end
  if must and #dels == 0 and #sets == 0 then dels[1] = '-' end
  for from = 1, #dels, 1000 do
    redis.call('HDEL', key, unpack(dels, from, math.min(from + 999, #dels)))
  end
  for from = 1, #sets, 1000 do
    local to = math.min(from + 999, #sets)
    if must then keep(unpack(sets, from, to)) else redis.call('HSET', key, unpack(sets, from, to)) end
  end
  if expire then redis.call('PEXPIREAT', key, num(kept)) end
  for _, one in ipairs(told) do
    redis.pcall('PUBLISH', 'tenure:to:' .. one[1], one[2])
  end
end
