"""The run folder: what a film is made from, and everything that was made."""
