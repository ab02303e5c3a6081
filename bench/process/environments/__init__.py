"""Environments of backends that cannot live beside the others: made, found, and asked what they can do."""
