"""One file for each measure. Their functions are also in `genaug.evaluation`."""
