"""Saves what `preheat.apply` goes on from: names, folders that appear whole, pointers, callbacks of frameworks."""
