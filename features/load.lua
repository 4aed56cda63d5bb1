-- Read rows of one partition in one call.
-- KEYS[1] meta hash, KEYS[2..] entities
-- ARGV[1] epoch of the caller, or '' for one who only looks on; ARGV[2] the offset that it knows to be stored, or '';
-- then for each entity: 0 for a room string, else the number of fields and the fields of a viewer hash
-- Returns {1, value, value ...} in the order asked for, false where there is none; {-1, epoch held} when the caller does
-- not own the partition any more; {-2, offset held} when the rows are older than it knows, or torn (see checkpoint.lua).
if ARGV[1] ~= '' then
  local held = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
  if (held[1] or '') ~= ARGV[1] then return {-1, held[1] or ''} end
  if ARGV[2] ~= '' and (tonumber(held[2] or '') or -1) < tonumber(ARGV[2]) then return {-2, held[2] or ''} end
end
local rows, at = {1}, 3
for k = 2, #KEYS do
  local n = tonumber(ARGV[at])
  if n == 0 then
    rows[#rows + 1] = redis.call('GET', KEYS[k])
  else
    for first = at + 1, at + n, 2000 do -- unpack() returns 8,000 values at most
      local last = math.min(first + 1999, at + n)
      local values = redis.call('HMGET', KEYS[k], unpack(ARGV, first, last))
      for i = 1, last - first + 1 do rows[#rows + 1] = values[i] end
    end
  end
  at = at + n + 1
end
return rows
