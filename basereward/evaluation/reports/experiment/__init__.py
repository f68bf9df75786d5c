"""The page of an experiment: what its cells reached, beside what papers print."""
