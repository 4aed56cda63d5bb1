-- Write rows and the offset they are as of, if the caller still owns the partition and continues where the last write ended.
-- KEYS[1] meta hash, KEYS[2..] entities: viewer hashes and room strings
-- ARGV[1] epoch, [2] expected offset or '', [3] new offset, [4] seconds to live of a viewer, [5] of a room,
-- then for each entity: 'room', value   or   'viewer' | 'erase', number of arguments, field, value, field, value ...
-- Returns {1}, {-1, epoch held} (fenced) or {-2, offset held} (not the expected one; 'torn' after a write that stopped halfway).
local held = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
if (held[1] or '') ~= ARGV[1] then return {-1, held[1] or ''} end
if (held[2] or '') ~= ARGV[2] then return {-2, held[2] or ''} end
-- Out of memory, read-only and the like refuse a script's first such command, so that either all is written or nothing.
-- Anything else that stops a script does not undo what it has written: until the end the offset says so.
redis.call('HSET', KEYS[1], 'offset', 'torn')
local at = 6
for k = 2, #KEYS do
  if ARGV[at] == 'room' then
    redis.call('SET', KEYS[k], ARGV[at + 1], 'EX', ARGV[5])
    at = at + 2
  else
    local n = tonumber(ARGV[at + 1])
    if ARGV[at] == 'erase' then redis.call('DEL', KEYS[k]) end
    if n > 0 then
      for i = at + 2, at + 1 + n, 2000 do -- unpack() returns 8,000 values at most
        redis.call('HSET', KEYS[k], unpack(ARGV, i, math.min(i + 1999, at + 1 + n)))
      end
      redis.call('EXPIRE', KEYS[k], ARGV[4])
    end
    at = at + 2 + n
  end
end
redis.call('HSET', KEYS[1], 'offset', ARGV[3])
return {1}
