"""A kit that holds any client of the agent service to the contract of its streams; see docs/conformance.md.

    runwire conformance --target 127.0.0.1:50051 --command "node examples/node/dist/src/adapter.js"

`proxy` breaks connections, `reader` drives a client over JSON lines, `transcript` remembers what it did, `validators`
judge it, and `kit` puts them together.
"""
