"""Values that must never be shown: header values and URLs that may hold a password.

Assumes nothing. `config.model` types its fields with these, so that repr(), str(), format() and error
messages show a mask; only a sink that really sends the value calls reveal().
"""

MASK = "***"


class Secret:
    """Text that prints as ***. Two secrets are equal when their texts are."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: for the wire only, never for a message."""
        return self._text

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Url(Secret):
    """A URL that prints without its user, password, query and fragment."""

    __slots__ = ()

    def __str__(self) -> str:
        return mask_url(self._text)


def mask_url(url: str) -> str:
    """`url` with the part before `@` and the part after `?` or `#` replaced by ***."""
    cut = min((i for i in (url.find("?"), url.find("#")) if i >= 0), default=len(url))
    head, tail = url[:cut], url[cut : cut + 1]
    scheme, separator, rest = head.rpartition("://")
    if "@" in rest:
        rest = f"{MASK}@{rest.rpartition('@')[2]}"
    # Without "://" the password itself may hold "://": what stands before it is shown only if it looks like a
    # scheme.
    if separator and not (scheme.isascii() and scheme.replace("+", "").isalnum()):
        scheme = MASK
    return f"{scheme}{separator}{rest}{tail}{MASK if tail else ''}"
