"""From metrics to what they say: comparison and scaling, sameness, counters. Knows nothing of sites."""
