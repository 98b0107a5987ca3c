"""Weights that are rewritten while they answer: rows, banks, engine, controller."""
