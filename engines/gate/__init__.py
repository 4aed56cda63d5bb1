"""What an engine must show before it may serve: accuracy, invariance, speed, and what its energy costs."""
