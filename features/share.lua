-- Publish one partition's shares of rooms.
-- KEYS share hashes of the rooms   ARGV[1] partition, [2] seconds to live, then the share of each room
for k = 1, #KEYS do
  redis.call('HSET', KEYS[k], ARGV[1], ARGV[k + 2])
  redis.call('EXPIRE', KEYS[k], ARGV[2])
end
