"""Networks that say how far apart two pictures look."""
