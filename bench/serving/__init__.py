"""Requests that arrive by themselves at a rate: a queue before the loaded worker, and service levels under load."""
