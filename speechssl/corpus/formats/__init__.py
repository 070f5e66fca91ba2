"""Imports and exports lists of utterances in the formats of other toolkits."""
