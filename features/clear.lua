-- Delete rows of a partition, if the caller owns it.
-- KEYS[1] meta hash, KEYS[2..] entities   ARGV[1] epoch
-- Returns 1, or 0 when it has another owner.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
for k = 2, #KEYS do redis.call('UNLINK', KEYS[k]) end
return 1
