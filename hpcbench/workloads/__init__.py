"""Programs that jobs run on a site: the standard library and their framework, nothing else of this package."""
