"""The page that the study would be today: old claims, held against runs of this machine."""
