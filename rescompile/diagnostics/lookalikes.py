"""Characters that look like those of a spec, as inserted by word processors, web pages and input methods."""

from __future__ import annotations

import unicodedata

#: Arithmetic signs whose ASCII character follows neither from their name nor from their compatibility form.
_SIGNS = {"−": "-", "×": "*", "÷": "/", "≤": "<=", "≥": ">=", "≠": "!=", "∶": ":", "、": ","}


def ascii_of(character: str) -> str | None:
    """Return the ASCII character that a lookalike stands for: `-` for a dash, `:` for a full-width colon, '' for a
    zero-width character. None for any other character."""
    if character in _SIGNS:
        return _SIGNS[character]
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category in ("Pd", "Zs"):
        return "-" if category == "Pd" else " "
    if category == "Cf":
        return ""
    if "QUOTATION MARK" in name or name.endswith("PRIME"):
        return '"' if "DOUBLE" in name else "'"
    meant = unicodedata.normalize("NFKC", character)
    return meant if meant.isascii() else None


def explained(character: str) -> str | None:
    """Return `'–' (U+2013 EN DASH) is not '-'` for a character that looks like another one."""
    if character.isascii() or (meant := ascii_of(character)) is None:
        return None
    shown = f"'{character}' " if character.isprintable() else ""
    name = f"{shown}(U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"
    return f"{name} is not {meant!r}" if meant.strip() else f"{name} is not {'a plain space' if meant else 'visible'}"
