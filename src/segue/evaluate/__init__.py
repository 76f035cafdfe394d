"""Measuring schemes and settings on pairs of images, with fixed definitions.

measures    the measures themselves, on plain arrays; catalogue: their names, definitions and sources
features    networks that turn pictures into vectors or distances
manifest    which pairs; harness: make and measure them; statistics: intervals over pairs
report      what came of it as HTML, JSON and CSV; compare: two reports side by side
"""
