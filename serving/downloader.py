"""yt-dlp with `reach` as its only way to the network.

Decision: the only module that imports yt-dlp, and so the only one that a new version of it can break. It is imported
when somebody asks for a video: a yt-dlp that has changed beyond recognition then fails that visitor, not the page.
"""

import functools
import http.client
import io
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable

import yt_dlp.globals
from yt_dlp import YoutubeDL
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.extractor.youtube import YoutubeIE
from yt_dlp.networking import Request, RequestDirector, RequestHandler, Response
from yt_dlp.networking.exceptions import HTTPError, RequestError, SSLError, TransportError
from yt_dlp.utils import GeoRestrictedError, YoutubeDLError

from serving.reach import Reach, ReachHandler

__all__ = ["GeoRestrictedError", "ReachingYoutubeDL", "RequestError", "YoutubeDLError", "YoutubeIE"]

yt_dlp.globals.plugin_dirs.value = []  # code of others, which would not ask what may be reached: none is loaded

LARGEST_REFUSAL = 100_000  # bytes of an error page


class ReachRH(RequestHandler):
    """yt-dlp's way to the network, along `reach`; asks `stopped` before every request."""

    _SUPPORTED_URL_SCHEMES = ("https",)
    _SUPPORTED_PROXY_SCHEMES = _SUPPORTED_FEATURES = None  # a proxy of the environment is not used

    def __init__(self, *, reach: Reach, stopped: Callable[[], bool], **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._reach, self._stopped = reach, stopped

    def _check_extensions(self, extensions: dict[str, object]) -> None:
        super()._check_extensions(extensions)
        for known in ("cookiejar", "timeout", "legacy_ssl", "keep_header_casing"):
            extensions.pop(known, None)

    def _send(self, request: Request) -> Response:
        if self._stopped():
            raise RequestError("stopped")
        opener = urllib.request.OpenerDirector()
        for handler in (
            ReachHandler(self._reach),
            urllib.request.HTTPCookieProcessor(self._get_cookiejar(request)),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPRedirectHandler(),
        ):
            opener.add_handler(handler)
        opener.addheaders = []
        headers = {**self._get_headers(request), "Accept-Encoding": "identity"}
        asked = urllib.request.Request(request.url, request.data, headers, method=request.method)
        try:
            answer = opener.open(asked, timeout=self._calculate_timeout(request))
        except urllib.error.HTTPError as error:
            with error:
                body = io.BytesIO(error.read(LARGEST_REFUSAL))
            raise HTTPError(Response(body, error.url, error.headers, error.code, error.reason)) from error
        except urllib.error.URLError as error:
            kind = SSLError if isinstance(error.reason, ssl.SSLError) else TransportError
            raise kind(cause=error) from error
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(cause=error) from error
        except ValueError as error:
            raise RequestError(cause=error) from error
        return _Answer(answer, answer.url, answer.headers, answer.status, answer.reason)


class _Answer(Response):
    """A response whose failures while it is read are yt-dlp's, which then tries again."""

    def read(self, amt: int | None = None) -> bytes:
        try:
            return self.fp.read(amt)
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(cause=error) from error


class ReachingYoutubeDL(YoutubeDL):
    """yt-dlp with `ReachRH` as its only way to the network, and with no extractor but those it is given."""

    def __init__(self, params: dict[str, object], reach: Reach, stopped: Callable[[], bool]) -> None:
        self._handler = functools.partial(ReachRH, reach=reach, stopped=stopped)
        super().__init__(params, auto_init=False)

    @functools.cached_property
    def cookiejar(self) -> YoutubeDLCookieJar:
        """An empty one, in memory alone."""
        return YoutubeDLCookieJar()

    def build_request_director(self, handlers: object, preferences: object = None) -> RequestDirector:  # noqa: ARG002
        return super().build_request_director([self._handler])
