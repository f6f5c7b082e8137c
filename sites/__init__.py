"""The built-in sites: one YAML file each."""
