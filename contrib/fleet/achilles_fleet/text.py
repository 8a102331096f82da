"""Text of a checkpoint or a list, which is hostile until it is escaped."""

import html
import unicodedata


def printable(text: str) -> str:
    """The text with what does not show as itself (controls, what turns writing around or has no width) escaped."""
    return "".join(c if _shows(c) else f"\\u{{{ord(c):x}}}" for c in text)


def markup(text: str) -> str:
    """The same for an HTML element or a quoted attribute."""
    return html.escape(printable(text))


def _shows(c: str) -> bool:
    # Other: controls, formats (writing direction among them), surrogates, private, unassigned; line ends; blanks.
    return c == " " or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
