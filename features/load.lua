-- Read rows of one partition in one call.
-- KEYS entities; ARGV for each: 0 for a room string, else the number of fields and the fields of a viewer hash
-- Returns the values in the order asked for, false where there is none.
local rows, at = {}, 1
for k = 1, #KEYS do
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
