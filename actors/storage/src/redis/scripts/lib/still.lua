-- In front of every script that touches more than one key. While a slot of Redis Cluster moves to another
-- server, a key that is not here, or not any more, is an error in the middle of a script, after half of
-- its work. This one never is here: the error comes before anything is done.
redis.call('EXISTS', KEYS[1] .. ':-')
