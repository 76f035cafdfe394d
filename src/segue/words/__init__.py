"""What steers the denoiser beside the images: prompts, captions, textual inversion."""
