"""Speed and memory: against a plain transcription of the paper's procedure, by solver, by part, by frames.

Each module is a command that writes one JSON file into ``out/speed``; ``python -m benchmarks.speed.report`` makes the
tables and plots of ``docs/performance.md`` from them. ``make bench`` runs them all.
"""
