"""`python httpcheck.py RUNWIRE_GATEWAY_LISTEN`: whether the gateway of this container is alive.

The argument names the variable that says where it listens. Ends with 0 if it answers; with 1 and one line if it does
not within 3 s; with 2 for a wrong use.
"""

import os
import sys
from urllib.error import URLError
from urllib.request import urlopen

TIMEOUT_SECONDS = 3.0


def main(arguments: list[str]) -> int:
    port = os.environ.get(arguments[0], "").rpartition(":")[2] if len(arguments) == 1 else ""
    if not port.isdecimal():
        print("usage: httpcheck.py VARIABLE, the name of one that says HOST:PORT", file=sys.stderr)
        return 2
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_SECONDS) as answer:
            print(answer.read().decode())
    except (URLError, OSError) as error:
        print(f"no answer on port {port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
