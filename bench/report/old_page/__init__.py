"""The page of runs of schemas 1 to 4; goes with them."""
