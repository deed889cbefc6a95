"""Bounds of label values that servers, the skew monitor and cutters share: dashboards join their series."""

OTHER = "other"
"""The value that everything beyond a bound shares."""

MOST_TIERS = 16
"""So many tiers have a value of their own."""

VERSION_DIGITS = 12
"""So much of a tower version names it."""
