"""Reads pickles of every protocol without importing or calling anything that they name."""
