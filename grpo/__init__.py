"""Group-relative policy optimization: the algorithm and the run."""
