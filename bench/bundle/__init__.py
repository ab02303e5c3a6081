"""The bundle: the chosen runtime's artifact with all that runs it elsewhere, and all that proves it again there."""
