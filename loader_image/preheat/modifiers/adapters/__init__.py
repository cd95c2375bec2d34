"""What `lora` does with peft: which layers get adapters, what they are called in a checkpoint, and what is reported."""
