"""DeepSpeed's folders, whose ranks keep slices of what ZeRO has flattened."""
