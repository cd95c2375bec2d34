"""Moves the bytes of a plan: read, checked, cast and written as they pass, in memory that does not grow."""
