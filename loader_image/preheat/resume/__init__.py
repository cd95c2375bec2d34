"""Which of a run's own checkpoints a training goes on from, decided when its container starts."""
