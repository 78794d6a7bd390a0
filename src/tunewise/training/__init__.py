"""One loop for every trained rung, over a population of members."""
