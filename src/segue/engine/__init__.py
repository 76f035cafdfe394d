"""The engine: keyframes in, a film's frames out."""
