"""What a loaded model takes of memory, and the largest batch that fits beside it."""
