-- The bookkeeping of a line that has more than one easy case: a mirror of the pure ledger, rule by rule.
local function num(n) return string.format('%d', n) end

local kept, token = 0, 0
local next, granted, graves, modes, claims = MAX, 0, 0, '', ''
local line, was_first -- As they are stored.
local texts = {} -- What claims say, as far as it is known.

if not head then
  if redis.call('EXISTS', key) == 1 then return 'foreign hash' end
elseif type(head) == 'table' then
  if not string.find(head.err, 'WRONGTYPE', 1, true) then return head end
  return 'foreign ' .. redis.call('TYPE', key).ok
elseif string.sub(head, 1, 2) ~= '1 ' then
  return 'foreign hash of another version'
else
  local a, b, more, claim, text = string.match(head, '^1 (%d+) (%d+)([ +]?)(%x*) ?(.*)$')
  if not a or #claim % 32 > 0 or (#claim == 0) ~= (#text == 0) or more == ' ' and #claim == 0 then
    return 'foreign damaged hash'
  end
  kept, token = tonumber(a), tonumber(b)
  if #claim > 0 then
    was_first, texts[claim], claims = claim, text, claim
    modes = string.match(text, '^%a+ %d+ %d+ %d+ %d+ %d+ (%a) ')
    if not modes then return 'foreign damaged hash' end
  end
  if more == ' ' then
    next = tonumber(string.match(text, '^%a+ (%d+)'))
    granted = string.sub(text, 1, 5) == 'waits' and 0 or 1
  elseif more == '+' then
    -- "<graves> <next> <granted>\n<modes>\n<claims>", without the first place; `next` is never later than any deadline.
    local got = redis.call('HMGET', key, 'line', me)
    line = got[1] or ''
    local c, d, e, at = string.match(line, '^(%d+) (%d+) (%d+)\n()')
    local gap = at and string.find(line, '\n', at, true)
    if not gap or #line - gap ~= 32 * (gap - at) then return 'foreign damaged hash' end
    graves, next, granted = tonumber(c), tonumber(d), tonumber(e)
    modes, claims = modes .. string.sub(line, at, gap - 1), claims .. string.sub(line, gap + 1)
    if me ~= was_first then texts[me] = got[2] or nil end
  end
end
local dirty, dels, told, latest = {}, {}, {}, 0

-- The next token by the hybrid rule, above `floor`, with at most `spare` behind it; none at the end of the range.
local function fresh(floor, spare)
  local first = math.max(math.max(token, floor) + 1, math.min(now, MAX))
  if first > MAX then return nil end
  spare = math.min(spare, math.max(0, math.min(now + AHEAD, MAX) - first))
  token = first + spare
  return first, spare
end

local function set(claim, text, ends)
  texts[claim], dirty[#dirty + 1] = text, claim
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
  set(claim, string.format('%s %016d %s %s %s %s', place.state, ends, place.firsts, place.spare, place.slot, place.rest),
    ends)
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
  if was_first then all[#all + 1], all[#all + 2] = was_first, texts[was_first] end
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

-- What the permits of the line have agreed on; none when there are none.
local function limit_in_force()
  local index = string.find(modes, 'p', 1, true)
  return index and tonumber(string.match(text_of(claim_at(index)), ' p (%d+) %d+ %d+ %d+ %x+ %x+$'))
end

-- How many places at the head of the line fit together.
local function prefix()
  local head = string.sub(modes, 1, 1)
  if head == '' then return 0 end
  if head == 'x' then return 1 end
  local run = (string.find(modes, '[^' .. head .. ']') or #modes + 1) - 1
  if head == 'p' then run = math.min(run, limit_in_force()) end
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
  local first, sets, gone_from = claim_at(1), {}, {}
  local behind = #modes > 1 or graves > 0
  if #dirty > 0 and math.floor(latest / 1000) + KEPT > kept then
    kept = kept_for(latest)
    sets.expire = kept
  end
  local new = string.format('1 %013d %016d', kept, token)
  if #modes > 0 then
    new = new .. (behind and '+' or ' ') .. first .. ' ' .. text_of(first)
  elseif behind then
    new = new .. '+'
  end
  if new ~= (head or '') and (head or #dirty > 0) then sets[1], sets[2] = 'tenure', new end
  for _, claim in ipairs(dirty) do
    if claim ~= first and texts[claim] then sets[#sets + 1], sets[#sets + 2] = claim, texts[claim] end
  end
  -- The first place is written behind the head; who comes to be the first had a field until now.
  if first ~= was_first and first ~= '' then dels[#dels + 1] = first end
  for _, claim in ipairs(dels) do
    if claim ~= was_first then gone_from[#gone_from + 1] = claim end
  end
  if behind then
    new = num(graves) .. ' ' .. string.format('%016d', next) .. ' ' .. num(granted) .. '\n' .. string.sub(modes, 2)
      .. '\n' .. string.sub(claims, 33)
    if line ~= new then sets[#sets + 1], sets[#sets + 2] = 'line', new end
  elseif line then
    gone_from[#gone_from + 1] = 'line'
  end
  if must and #gone_from == 0 and #sets == 0 then gone_from[1] = '-' end
  for from = 1, #gone_from, 1000 do
    redis.call('HDEL', key, unpack(gone_from, from, math.min(from + 999, #gone_from)))
  end
  for from = 1, #sets, 1000 do
    local to = math.min(from + 999, #sets)
    if must then keep(unpack(sets, from, to)) else redis.call('HSET', key, unpack(sets, from, to)) end
  end
  if sets.expire then redis.call('PEXPIREAT', key, num(kept)) end
  for _, one in ipairs(told) do
    redis.pcall('PUBLISH', 'tenure:to:' .. one[1], one[2])
  end
end
