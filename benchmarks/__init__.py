"""Benchmarks: one module a claim set."""
