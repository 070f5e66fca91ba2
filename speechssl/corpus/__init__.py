"""Builds, splits, merges, filters and segments manifests; `fetch` downloads corpora, `check` finds faults."""
