"""Is the compiled model still the same model? Metrics run in a worker, the verdict anywhere."""
