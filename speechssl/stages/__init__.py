"""What a recipe runs: each stage puts the parts together, from a manifest to a model, units or texts."""
