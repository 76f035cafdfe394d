"""Pictures in: files, colours, sizes; and pictures as tensors."""
