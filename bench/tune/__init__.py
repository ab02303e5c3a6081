"""Tuning: which runtime, variant, precision and number of threads is the fastest for one shape or one traffic."""
