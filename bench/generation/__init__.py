"""Generation: time to the first token and for each further one, with a cache of keys and values or without."""
