"""Snapshots of Pin embeddings, the index over them, and the releases that servers swap."""
