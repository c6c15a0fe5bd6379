"""What names a secret, and which values only name one: the judgement behind redaction.

A name is judged by its last word: `db_password` is a password, and `password_age` is an age. Names of which a secret is
only one reading (`key`, `auth`) hide a value only if it looks made, not written.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache
from itertools import pairwise
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PASSWORDS = _words("""
    password passwords passwd pwd passphrase passphrases userpass dbpass passwort kennwort contraseña contrasena senha
    wachtwoord hasło parola lösenord пароль pw psk requirepass masterauth bindpw rootpw dbpw userpw
    adminpw 密码 密碼 パスワード passe
""")
_CREDENTIALS = _words("""
    pass passcode token authorization cookie apikey apisecret privatekey accesskey secretkey signingkey
    integrationkey authkey masterkey sshkey clientsecret accesstoken authtoken refreshtoken bottoken
    webhookurl connectionstring dsn jwt sessionid jsessionid phpsessid csrf xsrf bearer
""")
_NAMED_OBJECTS = _words("secret secrets credential credentials tokens cookies")
_CODES = _words("otp pin totp cvv")
_WEAK = _words("key auth sig signature hmac salt session")
_KEY_OF = _words("""
    api private access secret signing encryption integration service account master ssh license subscription
    shared host auth tls
""")
_PAIRS = {(of, "key") for of in _KEY_OF} | {
    ("webhook", "url"), ("connection", "string"), ("session", "id"), ("secret", "id"), ("database", "url"),
    ("key", "data"), ("client", "secret"),
}  # fmt: skip

_ABOUT = _words("""
    name names namespace type kind age days expiry expires expired expiration expire at in seconds ttl policy count
    total length len size bytes ref version path file dir status state error errors failures failed rate ratio used
    limit limits bucket uri url endpoint host manager store engine provider rotation rotated updated created issuer
    user username owner field present enabled required valid invalid missing mount mounted server service prefix id
    left remaining per second minute reset scope scopes audience algorithm alg format by for usage cache attempts
    retries threshold class role
""")
"""The last words of names that only say something about a secret."""

_AMOUNTS = _words("max min num number total count prompt completion input output")
"""The first words of names that count something: `max_tokens`."""

_STATES = _words("""
    is was are has have had must should can cannot could not no none null nil true false yes never too expired
    expires expiring invalid incorrect wrong missing required rejected denied failed failure failures changed change
    changes reset rotated rotation rotates mismatch policy for of in on from to by at with and or unknown unset
    empty set ok valid authentication login leaked revoked refreshed refresh blocked unavailable unauthorized
    forbidden found about be been a an the this that enabled disabled optional present updated unchanged modified weak
    timeout user n/a -
""")
"""Words with which a sentence goes on, or which say how a secret is: no one's password."""

_SCHEMES = _words("bearer basic token digest apikey geniekey splunk bot negotiate ntlm oauth sharedkey hmac")
"""How the value of an Authorization header may begin."""

_WORDS = re.compile(r"[^\W\d_]*[^\W\d_\x00-\x7f][^\W\d_]*|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_PART = r"(?:\d{1,4}|[A-Z]{0,24}(?:[a-z]{2,24}[A-Z]{1,8}){0,4}[a-z]{0,24}\d{0,3})"
_NAME = re.compile(rf"{_PART}(?:[-._:/@]{_PART}){{0,20}}")
_NAME_OF_SECRET = re.compile(r"[a-z]+\d?(?:[-._/](?:[a-z]+\d{0,2}|v?\d{1,4})){1,12}(?:-(?=[a-z]*\d)[a-z0-9]{5})?")
_MADE = re.compile(r"[\w\-+/=.~%!#*^$@:]{1,512}")
_SIGNS_WITHIN = re.compile(r"\w[@$!#%^&*]{1,512}\w")
_MAIL = re.compile(r"[\w.+\-]{1,64}@[\w\-]{1,64}(?:\.[\w\-]{1,64}){1,8}[.:?!)]?")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_NUMBER = re.compile(r"\d[\d.,/]*(?:%|[a-z]{1,3})?")
_WORD_OR_NUMBER = re.compile(r"[A-Za-z]{1,24}|\d{1,5}")
_PLACEHOLDER = re.compile(r"\*+|x{3,}|\$\{[\w.:\-]+\}|\$[A-Z][A-Z0-9_]{3,}|\[redacted\]|\.{3}|…|%s|\{\}", re.IGNORECASE)


class Names(Enum):
    """What a name says about its value."""

    NOTHING = auto()
    PASSWORD = auto()
    """A password: any value is one, also a word."""
    CREDENTIAL = auto()
    """A token, key or header: any value that is no name, number or sentence."""
    SECRET = auto()
    """Also how Kubernetes and Vault call their objects: a value may be the name of one."""
    CODE = auto()
    """A short code of digits, or anything that looks made."""
    WEAK = auto()
    """Often something else: only a value that looks made."""


_MEANING: Final = {
    **dict.fromkeys(_PASSWORDS, Names.PASSWORD),
    **dict.fromkeys(_CREDENTIALS, Names.CREDENTIAL),
    **dict.fromkeys(_NAMED_OBJECTS, Names.SECRET),
    **dict.fromkeys(_CODES, Names.CODE),
    **dict.fromkeys(_WEAK, Names.WEAK),
}
_NO_SECRETS = {("routing", "key"): Names.WEAK, ("pull", "secrets"): Names.NOTHING}
"""Names that look like those of secrets: RabbitMQ routes by one, and Kubernetes lists the names of secrets."""

# People write `passw0rd`.
_ZERO = re.compile(r"(?<=[A-Za-z])0(?=[A-Za-z])")
_PASSWORD_ENDINGS = ("password", "passwd", "pwd")
_STRONG = (Names.PASSWORD, Names.CREDENTIAL, Names.SECRET)


@lru_cache(maxsize=4096)
def meaning_of(name: str) -> Names:
    """What a name of a field, label, option or header says about its value."""
    words = [word.lower() for word in _WORDS.findall(_ZERO.sub("o", name))]
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    if not words or words[0] in _AMOUNTS:
        return Names.NOTHING
    return _meaning_of_word(words[0]) if len(words) == 1 else _meaning_of_words(words)


def _meaning_of_word(word: str) -> Names:
    return Names.PASSWORD if word.endswith(_PASSWORD_ENDINGS) else _MEANING.get(word, Names.NOTHING)


def _meaning_of_words(words: list[str]) -> Names:
    if tuple(words[-2:]) in _NO_SECRETS:
        return _NO_SECRETS[words[-2], words[-1]]
    if tuple(words[-2:]) in _PAIRS:
        return Names.SECRET if words[-2:] == ["secret", "key"] else Names.CREDENTIAL
    if words[-1] == "keys" and (*words[-2:-1], "key") in _PAIRS:
        return Names.CREDENTIAL
    if words[-1] in _MEANING:
        # A `dedup_key` is none: other keys than those of _PAIRS identify something.
        return Names.NOTHING if words[-1] == "key" else _MEANING[words[-1]]
    if words[-1].endswith(_PASSWORD_ENDINGS):
        return Names.PASSWORD
    if words[-1] in _ABOUT:
        return Names.NOTHING
    if any(pair in _PAIRS for pair in pairwise(words)):
        return Names.CREDENTIAL
    found = (_MEANING.get(word) for word in words)
    return next((meaning for meaning in found if meaning in _STRONG), Names.NOTHING)


def looks_made(value: str) -> bool:
    """Whether a value of 8 characters or more mixes letters and digits or cases as no written name does."""
    written = _NAME.fullmatch(value) or _NAME_OF_SECRET.fullmatch(value) or _UUID.fullmatch(value)
    return len(value) >= 8 and bool(_MADE.fullmatch(value)) and not written


def has_signs(value: str) -> bool:
    """Whether a value has signs within it as a password has and a word has not: `p@ssword`."""
    return bool(_SIGNS_WITHIN.search(value)) and not _MAIL.fullmatch(value)


def is_secret_value(meaning: Names, value: str, following: str = "") -> bool:
    """Whether a value under a name of this meaning is the secret, and no name of one or word about one.

    `following` is how its line goes on, for a value that stands in a sentence.
    """
    first, _, rest = value.partition(" ")
    if meaning is Names.NOTHING or not value or _PLACEHOLDER.fullmatch(value):
        return False
    if _is_state(first) and not (meaning is Names.PASSWORD and any(map(looks_made, rest.split()))):
        return False
    if value[0] == "/" and _NAME.fullmatch(value[1:]):
        return False  # the path of a key file, or a folder as in PWD=/var/lib/app
    if meaning is Names.PASSWORD:
        return not (value.isdigit() and len(value) <= 2)  # `passwords: 3 expired`
    if meaning is Names.WEAK:
        return looks_made(value)
    if meaning is Names.CODE:
        return looks_made(value) or (value.isdigit() and 4 <= len(value) <= 8)
    if _NUMBER.fullmatch(value) and (len(value) < 6 or meaning is Names.SECRET):
        return False
    if _begins_sentence(first, (rest or following).lstrip()):
        return False
    return meaning is Names.CREDENTIAL or not _NAME_OF_SECRET.fullmatch(value)


def _is_state(word: str) -> bool:
    return word.rstrip(".:,").casefold() in _STATES


def _begins_sentence(first: str, following: str) -> bool:
    """Whether the words go on as a sentence does: `Authorization: 503 from auth-api`, `secret: shop-tls in shop`."""
    second, _, others = following.partition(" ")
    if first.isalpha() and _is_state(second):
        return True
    if not second.lstrip("\"'")[:1].isalnum() or looks_made(second.rstrip(",.")):
        return False
    if first.lower() in _SCHEMES and not (second.isalpha() and second.islower() and others[:1].isalpha()):
        return False
    return bool(_WORD_OR_NUMBER.fullmatch(first) or _NAME_OF_SECRET.fullmatch(first))
