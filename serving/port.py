"""Whether a page can be served at an address, asked before anything heavy is imported."""

import socket

from serving.errors import UserError


class PortError(UserError):
    """The address cannot be listened on."""


def check_port(host: str, port: int) -> None:
    """Raises `PortError` where `port` is not one, or is taken: asked before a model is loaded for nothing."""
    if not 0 < port < 65536:
        raise PortError(f"port {port}: is not a port; choose one from 1024 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise PortError(
            f"{host}:{port}: cannot be listened on ({error.strerror}); stop what runs there or choose another --port"
        ) from error
