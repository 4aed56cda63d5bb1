-- Publish shares of rooms.
-- KEYS share hash of each share's room   ARGV[1] seconds to live, then partition and share of each
for k = 1, #KEYS do
  redis.call('HSET', KEYS[k], ARGV[2 * k], ARGV[2 * k + 1])
  redis.call('EXPIRE', KEYS[k], ARGV[1])
end
