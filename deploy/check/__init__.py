"""Checks of what deploys Runwire, as far as they go without an engine: nothing is built, no container runs.

Each check takes the root of the project and yields its problems, one line each.
"""
