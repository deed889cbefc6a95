"""Offline truth: recall, baselines and reports over real logs. Never serves."""
