"""A network that leads to YouTube and nowhere else, for yt-dlp and for thumbnails.

Decision: the check stands where the connection is made, after every redirect and whatever a URL looked like: https, a
host of `hosts`, and every address it resolves to public. The connection then goes to the very address that was checked,
so that a name which resolves otherwise the second time gains nothing. There is no handler for anything else, no proxy
(which would resolve names out of sight), and no compressed answers that could swell.
"""

import functools
import http.client
import ipaddress
import re
import socket
import ssl
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # how IPv6-only networks write an IPv4 address
HTTPS = 443


class NotAllowedError(OSError):
    """Somebody asked for a host or an address that is not to be reached."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet's, also in its IPv4-within-IPv6 forms."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        within = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            within = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if within is not None:
            return is_public(str(within))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False))


def resolve(host: str) -> list[str]:
    """The IP addresses of a host name."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, HTTPS, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class Reach:
    """Which hosts may be reached, and how."""

    hosts: tuple[str, ...] = ("youtube.com", "googlevideo.com", "ytimg.com")
    """Domains, themselves and all below them."""
    resolve: Callable[[str], list[str]] = resolve
    """A host's addresses."""
    permits: Callable[[str], bool] = is_public
    """Whether an address may be connected to."""
    port: int = HTTPS
    """Where to connect to; a URL may name none but 443."""
    context: ssl.SSLContext | None = None
    """Which certificates to trust; None for the system's."""

    def connect(self, host: str, port: int | None, timeout: float) -> socket.socket:
        """A connection to `host`. Raises `NotAllowedError`."""
        if port not in (None, HTTPS) or not NAME.fullmatch(host) or not self._knows(host):
            raise NotAllowedError(f"{host}:{port} is not one of {', '.join(self.hosts)}")
        addresses = self.resolve(host)
        for address in addresses:
            if not self.permits(address):
                raise NotAllowedError(f"{host} resolves to {address}, which is not a public address")
        failure: OSError = NotAllowedError(f"{host} resolves to nothing")
        for address in addresses:
            try:
                return socket.create_connection((address, self.port), timeout)
            except OSError as error:
                failure = error
        raise failure

    def _knows(self, host: str) -> bool:
        return any(host == known or host.endswith(f".{known}") for known in self.hosts)


YOUTUBE = Reach()


class _Connection(http.client.HTTPSConnection):
    def __init__(self, host: str, *, reach: Reach, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(host, timeout=timeout, context=context)
        self._reach, self._tls, self._seconds = reach, context, timeout

    def connect(self) -> None:
        raw = self._reach.connect(self.host, self.port, self._seconds)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self.host)


class ReachHandler(urllib.request.HTTPSHandler):
    """urllib's https along `reach`."""

    def __init__(self, reach: Reach) -> None:
        super().__init__()
        self._make = functools.partial(_Connection, reach=reach, context=reach.context or ssl.create_default_context())

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def make(host: str, timeout: float) -> _Connection:
            return self._make(host, timeout=timeout)

        return self.do_open(make, req)  # type: ignore[arg-type]
