"""The job in Quix Streams."""
