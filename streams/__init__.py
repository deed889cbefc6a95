"""The Kafka edge: enrichment of Pin changes, snapshot cuts, replay, and the broker for demo and tests."""
