"""The spec language: YAML text -> Spec. Reading, models, inheritance, name checks, canonical text, JSON Schema."""
