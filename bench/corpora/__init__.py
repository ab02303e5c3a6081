"""A corpus timed whole: sentences of varying length, padded to the longest of each batch."""
