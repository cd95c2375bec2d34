"""What a person asks about a checkpoint: one function per verb of the command line, each returning what it found."""
