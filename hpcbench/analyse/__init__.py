"""From metrics to what they say: comparison, scaling, sameness, counters, failures. Knows nothing of sites."""
