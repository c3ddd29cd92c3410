"""`python healthcheck.py RUNWIRE_AGENT_LISTEN [SERVICE]`: whether this container is healthy, by gRPC health.

The first argument names the variable that says where the service listens, the second what is asked about; without, the
server as a whole. Ends with 0 if it says SERVING; with 1 and one line if it does not, or does not answer within 3 s;
with 2 for a wrong use.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 3.0


def main(arguments: list[str]) -> int:
    port = os.environ.get(arguments[0], "").rpartition(":")[2] if len(arguments) in (1, 2) else ""
    if not port.isdecimal():
        print("usage: healthcheck.py VARIABLE [SERVICE], VARIABLE the name of one that says HOST:PORT", file=sys.stderr)
        return 2
    try:
        with _channel(f"127.0.0.1:{port}") as channel:
            request = health_pb2.HealthCheckRequest(service="".join(arguments[1:]))
            state = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS).status
    except grpc.RpcError as error:
        print(f"no answer on port {port}: {error.code().name}", file=sys.stderr)
        return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(state))
    return 0 if state == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(target: str) -> grpc.Channel:
    """To the service of this container. Over TLS its own certificate is what is trusted, and, where clients need one,
    what is shown."""
    files = [os.environ.get(f"RUNWIRE_TLS_{name}_FILE", "") for name in ("CERT", "KEY")]
    if not all(files):
        return grpc.insecure_channel(target)
    cert, key = (Path(file).read_bytes() for file in files)
    names = x509.load_pem_x509_certificate(cert).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    name = next(iter(names.get_values_for_type(x509.DNSName)), "127.0.0.1")
    credentials = grpc.ssl_channel_credentials(cert, key, cert)
    return grpc.secure_channel(target, credentials, options=[("grpc.ssl_target_name_override", name)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
