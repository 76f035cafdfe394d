"""How pocket, the embedded model, was made: one module per stage, run as `python -m training.STAGE`."""
