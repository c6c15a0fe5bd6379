"""The rules of values that a setting and a Prefect block both have: URLs, credentials, certificates.

Each function returns what is wrong, in words for the operator, and never the value of a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

MAX_CA_BYTES = 4 * 1024 * 1024
"""The largest file of certificates that is read: those of all public authorities are a twentieth of it."""

MAX_SECONDS = 10 * 365 * 86400
"""The longest time that a setting may name: with much longer ones no moment can be calculated."""

WEB_URL = "expected a http:// or https:// URL with a host, such as https://example.com/path"

_USER_IN_URL = re.compile("//[^/?#]*@")


def web_url_problem(url: str) -> str:
    """What is wrong with the base URL of an HTTP API; "" if nothing is."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return WEB_URL
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        return WEB_URL
    if "@" in parts.netloc:
        return "a user in a URL is shown to others: write user name and password into their own settings or fields"
    if not _has_port(parts):
        return "expected a port from 1 to 65535"
    if "?" in url or "#" in url:
        return "expected a URL without a query (?) and without a fragment (#): paths are added to its end"
    return ""


def _has_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def without_user(url: str) -> str:
    """A URL without the user and the password in it."""
    return _USER_IN_URL.sub("//", url)


def header_problem(value: str) -> str:
    """What is wrong with a key or token that is sent in a header; "" if nothing is."""
    if not value.strip():
        return "expected a value, and not only spaces"
    if value != value.strip() or not value.isprintable() or not value.isascii():
        return (
            "expected letters, digits and signs of ASCII, without line breaks, other control characters, "
            "or spaces around it"
        )
    return ""


def name_problem(value: str) -> str:
    """What is wrong with a name that an API gets, such as that of a model; "" if nothing is."""
    return "" if value.strip() and value.isprintable() else "expected a name without control characters"


def login_problems(username: str, password: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a user name and its password, with the field that it is about: username or password."""
    if username and not password:
        yield "password", "expected one, because a user name is set"
    if password and not username:
        yield "username", "expected one, because a password is set"
    if ":" in username or not username.isprintable():
        yield "username", "expected a name without a colon and without control characters"
    if not password.isprintable():
        yield "password", "expected a password without line breaks or other control characters"


def prometheus_problems(
    *, url: str, username: str = "", password: str = "", token: str = "", verify_tls: bool = True, ca: str = ""
) -> Iterator[tuple[str, str]]:
    """What is wrong with how a Prometheus is reached, with the field that it is about, as the block names it.

    `ca` is the text of the certificates. An empty text is a field that is not set.
    """
    if problem := web_url_problem(url):
        yield "url", problem
    yield from login_problems(username, password)
    if token and (username or password):
        yield "token", "expected a token, or a user name with a password, and not both"
    if token and (problem := header_problem(token)):
        yield "token", problem
    if not ca:
        return
    if problem := certificates_problem(ca):
        yield "ca", problem
    if not verify_tls:
        yield "verify_tls", "expected that certificates are verified, because that of an authority is given"
    elif url.startswith("http://"):
        yield "ca", "expected none, because the URL is one of http:// and has no certificate"


@lru_cache(maxsize=8)
def certificates_problem(text: str) -> str:
    """What is wrong with certificates in PEM; "" if nothing is."""
    import ssl  # few processes have a certificate to look at

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError, TypeError):  # TypeError: a character that is not ASCII
        return "expected certificates in PEM, which start with -----BEGIN CERTIFICATE-----"
    return ""


def read_certificates(path: str) -> str:
    """The text of a file of certificates.

    Raises:
        ValueError: there is no such file, or it is none of certificates.
    """
    file = Path(path)
    try:
        if not file.is_file():  # a device or a pipe may have no end
            raise ValueError("expected a file that exists, with certificates in PEM")
        with file.open("rb") as opened:
            content = opened.read(MAX_CA_BYTES + 1)
    except OSError as error:
        raise ValueError(f"expected a file that can be read: {error.strerror}") from None
    if len(content) > MAX_CA_BYTES:
        raise ValueError(f"expected a file of at most {MAX_CA_BYTES:,} bytes, with certificates in PEM")
    text = content.decode("ascii", "ignore")  # comments may have other characters
    if problem := certificates_problem(text):
        raise ValueError(problem)
    return text


def model_problems(*, model: str, base_url: str = "", api_key: str = "") -> Iterator[tuple[str, str]]:
    """What is wrong with how a model is reached, with the field that it is about, as the block names it."""
    if problem := name_problem(model):
        yield "model", problem
    if base_url and (problem := web_url_problem(base_url)):
        yield "base_url", problem
    if api_key and (problem := header_problem(api_key)):
        yield "api_key", problem


def is_unambiguous_database_url(url: str) -> bool:
    """Whether a database URL has one user, one password and one list of hosts, however it is read."""
    authority, _, rest = re.sub("[/?]", "\n", url.split("://", 1)[1], count=1).partition("\n")
    _, _, hosts = authority.rpartition("@")
    if authority.count("@") > 1 or "@" in rest or re.search(r"[\s#\x00-\x1f]", url):
        return False
    if re.search("%(?![0-9A-Fa-f]{2})", url) or not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        return False
    try:
        return "\x00" not in unquote(url, errors="strict")
    except UnicodeDecodeError:
        return False


_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(:[0-9]{0,5})?")


@dataclass(frozen=True)
class SecondsBySource:
    """A time in seconds, with another one for single sources. `str()` gives the form of the variable."""

    default: float
    by_source: Mapping[str, float] = field(default_factory=dict[str, float])

    def of(self, source: str) -> float:
        """The seconds for this source."""
        return self.by_source.get(source, self.default)

    @classmethod
    def parse(cls, text: str) -> SecondsBySource:
        """Parse the form of the variable, such as `86400` or `86400,pagerduty=604800`.

        Raises:
            ValueError: the text has another form, or a time is negative, not finite, or longer than ten years.
        """
        default, *others = text.split(",")
        named = [one.partition("=") for one in others]
        if not all(_SOURCE_NAME.fullmatch(source.strip()) for source, _, _ in named):
            raise ValueError(_BY_SOURCE_FORM)
        return cls(_seconds(default), {source.strip(): _seconds(seconds) for source, _, seconds in named})

    def __str__(self) -> str:
        return ",".join([f"{self.default:g}", *(f"{name}={value:g}" for name, value in self.by_source.items())])


_SOURCE_NAME = re.compile("[a-z0-9_-]+")
_BY_SOURCE_FORM = "expected seconds, and source=seconds for single sources, such as 86400,pagerduty=604800"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(_BY_SOURCE_FORM) from None
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(_BY_SOURCE_FORM)
    return seconds
