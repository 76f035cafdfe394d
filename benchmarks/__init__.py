"""Benchmarks: what the numbers in ``docs`` were measured with."""
