"""The web studio: a page over the same Interpolator and the same run folders as the command line."""
