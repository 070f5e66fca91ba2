"""Hidden units: features, k-means of any size, and the quality of units against phones."""
