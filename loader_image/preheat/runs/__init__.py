"""Runs: what a training left in a folder, which of it is a checkpoint, and which one a selector means."""
