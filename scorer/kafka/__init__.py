"""Kafka at the service's edges: records in (source), scores and dead letters out (sink)."""
