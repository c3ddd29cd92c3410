"""The `runwire` command.

Exit codes: 0 the run succeeded, or the command did; 1 the run failed or was cancelled, or the service failed; 2 usage
or bad input; 3 a service cannot be reached; 4 events after the cursor are gone, or the log is another one; 130
interrupted, with the cursor to continue from on stderr.
"""

from __future__ import annotations

import os
import sys

# gRPC reports every failed connection on stderr by itself; the command says it in one line of its own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def main() -> None:
    """Entry point. Ends the process."""
    try:
        from runwire.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules were imported, or while the last words were said
        code = 130
    sys.exit(code)


__all__ = ["main"]
