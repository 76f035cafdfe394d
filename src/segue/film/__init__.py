"""Films out of frames: timing on the screen, in-between pictures, files."""
