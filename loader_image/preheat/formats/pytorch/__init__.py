"""Files of torch.save: zip archives since 1.6, those of before, and what their pickles hold."""
