"""From the bytes of a checkpoint into the tensors of a model, on whatever device and spread over whatever processes."""
