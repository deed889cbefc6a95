"""Claims of speed and size: each a ratio against a peer or a floor, measured in the same run."""
