"""Scorer runs that are pushed to an executor elsewhere, which reports how they ended."""
