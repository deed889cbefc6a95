"""What a feature is, how an event becomes one, and where the values live. No torch, Kafka or HTTP."""
