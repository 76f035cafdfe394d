"""Networks and checkpoints: the families of models, their solvers, loading, CLIP and feature networks."""
