"""Begins TLS with ports, with the certificate that Ray's variables name or with none.

``python handshake.py HOST:PORT...`` prints what became of each: ``greeted``, ``refused``, or
``plain`` where no TLS is spoken.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys

TIMEOUT_S = 5.0


def context() -> ssl.SSLContext:
    """Return what a client has: a certificate, or none and no way to know the server's."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.set_alpn_protocols(["h2"])
    if "RAY_TLS_CA_CERT" in os.environ:
        made.load_verify_locations(os.environ["RAY_TLS_CA_CERT"])
        made.load_cert_chain(os.environ["RAY_TLS_SERVER_CERT"], os.environ["RAY_TLS_SERVER_KEY"])
    else:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def begun(target: str) -> str:
    """Shake hands; a server that wants a certificate says so in its first answer after that."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as line:
        try:
            with context().wrap_socket(line, server_hostname=host) as secured:
                return "greeted" if secured.recv(1) else "refused"
        except ssl.SSLError as error:
            wanted = "CERTIFICATE_REQUIRED" in str(error.reason)
            return "refused" if wanted else "plain"
        except ConnectionError:  # an HTTP server has no answer to such a beginning
            return "plain"


if __name__ == "__main__":
    print(json.dumps({target: begun(target) for target in sys.argv[1:]}))
