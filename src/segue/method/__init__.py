"""The method itself, on tensors: nothing here knows of files, settings or networks."""
