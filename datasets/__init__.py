"""Real logs as the events, users and training rows of this system. No torch, Kafka or HTTP."""
