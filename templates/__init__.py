"""The built-in benchmarks, one folder each, and the job-script templates."""
