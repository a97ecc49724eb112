"""The block library: one YAML file per block, named after it."""
