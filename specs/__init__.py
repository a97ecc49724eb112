"""The zoo: one YAML file per network, named after it."""
