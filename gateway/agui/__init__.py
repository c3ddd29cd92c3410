"""Agents for user interfaces that speak AG-UI 1.0, with streams that are joined again after a cut."""
