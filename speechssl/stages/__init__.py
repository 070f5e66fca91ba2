"""The stages that a recipe runs: each combines the parts, from a manifest to a model, units or texts."""
