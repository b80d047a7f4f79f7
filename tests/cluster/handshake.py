"""Starts TLS with ports, with the certificate in Ray's variables or without one.

``python handshake.py HOST:PORT...`` prints the result of each: ``accepted``, ``refused``, or
``plain`` if the port does not use TLS.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys

TIMEOUT_S = 5.0


def client_context() -> ssl.SSLContext:
    """Return the context of a client with a certificate, or without any and without checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if "RAY_TLS_CA_CERT" in os.environ:
        context.load_verify_locations(os.environ["RAY_TLS_CA_CERT"])
        context.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
    else:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def handshake(target: str) -> str:
    """Do the handshake, and read: a server refuses a client without certificate only then."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as line:
        try:
            with client_context().wrap_socket(line, server_hostname=host) as secured:
                return "accepted" if secured.recv(1) else "refused"
        except ssl.SSLError as error:
            needs_certificate = "CERTIFICATE_REQUIRED" in str(error.reason)
            return "refused" if needs_certificate else "plain"
        except ConnectionError:  # an HTTP server closes the connection
            return "plain"


if __name__ == "__main__":
    print(json.dumps({target: handshake(target) for target in sys.argv[1:]}))
