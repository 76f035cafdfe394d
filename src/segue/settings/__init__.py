"""Settings: their kinds, presets and defaults."""
