-- A log's head. ARGV: kind.
return meta_load(KEYS[1], ARGV[1]).last
