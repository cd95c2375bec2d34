"""The operator: admission webhook and controller of CheckpointPipeline resources."""
