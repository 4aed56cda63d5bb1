"""The service: events in from Kafka, calibrated scores out to Kafka."""
