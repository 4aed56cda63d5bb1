-- Read all partitions' shares of rooms: for each of KEYS, partition, share, partition, share ...
local rooms = {}
for k = 1, #KEYS do rooms[k] = redis.call('HGETALL', KEYS[k]) end
return rooms
