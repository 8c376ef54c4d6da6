"""Map-style datasets: an index gives a sample, and a list of indices gives a whole batch in one call."""
