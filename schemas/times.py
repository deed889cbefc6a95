"""Spans of time in milliseconds, the unit of every time on Kafka and on disk."""

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
