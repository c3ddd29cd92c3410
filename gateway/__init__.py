"""The way in for browsers: HTTP, Server-Sent Events and pages over both services.

Stateless, and only a client of the services: it forwards the caller's token and has no rights of its own.
docs/gateway.md describes what it serves; `python -m gateway` starts it.
"""
