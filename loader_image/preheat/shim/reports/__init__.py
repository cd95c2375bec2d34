"""The report: what was done to a model, as one line, as JSON, as a table and as a page."""
