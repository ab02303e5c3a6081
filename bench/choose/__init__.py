"""From measured cells to a decision: which runtime to deploy for given traffic, under given constraints."""
