"""Generators behind one contract: credits, add, step, abort (see contract.py)."""
