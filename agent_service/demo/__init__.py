"""Agents that need no key and no network: `librarian` answers from this project's documentation, `ticker` counts."""

from agent_service.demo.librarian import librarian
from agent_service.demo.ticker import ticker

__all__ = ["librarian", "ticker"]
