"""What runs inside the training process: fills the model from the bundle, and refuses to train without it."""
