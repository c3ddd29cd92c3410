"""Benchmarks beside peers: make bench-peers."""
