"""Map-style datasets: an index becomes a sample, a list of indices a whole batch at once."""
