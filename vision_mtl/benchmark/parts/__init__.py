"""One file per part of the benchmark: what is compared, of what size, and what is to be reached."""
