"""Scorers that are carried out elsewhere: registered, claimed and reported by workers in any language."""
