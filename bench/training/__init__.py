"""One run's training: a batch, the frozen networks that see it, and the step."""
