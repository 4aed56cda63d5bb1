-- Become the owner of a partition.
-- KEYS[1] meta hash   ARGV[1] Kafka group generation, ARGV[2] owner's name
-- Returns {1, epoch, offset or '' (or 'torn', see checkpoint.lua)}, or {-1, generation that owns it} for a claim that comes too late.
local held = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'generation')
if held[3] and tonumber(ARGV[1]) < tonumber(held[3]) then return {-1, held[3]} end
local epoch = tonumber(held[1] or '0') + 1
redis.call('HSET', KEYS[1], 'epoch', epoch, 'generation', ARGV[1], 'owner', ARGV[2])
return {1, tostring(epoch), held[2] or ''}
