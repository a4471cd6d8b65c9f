"""Write the signs of numbers and formulas in one way: minus signs, fullwidth forms, raised digits, fractions.

A model writes "−5" (U+2212), "–5" or "－5" for -5. Programs that read numbers know the ASCII hyphen only.
"""

from __future__ import annotations

import re
import unicodedata

# Fullwidth forms of ASCII ("５", "－", "Ｂ") and fullwidth currency.
_WIDE = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_SIGNS = {
    "\u2212": "-", "\ufe63": "-", "\u2796": "-", "\u02d7": "-",  # minus, small hyphen-minus, heavy minus, modifier
    "\ufe62": "+", "\u2795": "+", "\uffe0": "¢", "\uffe1": "£", "\uffe5": "¥", "\u2044": "/", "\u2215": "/",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u3000": " ",
    "\u200b": "", "\u200e": "", "\u200f": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ",
}  # fmt: skip
_PLAIN = str.maketrans(_WIDE | {sign: plain for sign, plain in _SIGNS.items() if not plain.startswith("\\")})
_LATEX = str.maketrans({sign: plain for sign, plain in _SIGNS.items() if plain.startswith("\\")})
# Hyphens and dashes are minus signs directly before a number, where no word or number ends before them.
_DASH = re.compile(r"(?<![\w)\]}%.!?,\"'])[\u2010-\u2015\ufe58](?=\.?\d|\\?[$€£¥]\d|\\[a-zA-Z])")
# A minus sign with a space after it, where no value precedes it: "x = - 3" becomes "x = -3", "5 - 3" stays.
_APART = re.compile(r"(?:(?<=[=:(\[{<>≤≥≈])|\A)([ \t]*+)-[ \t]++(?=[\d.$\\])|(?<=\bis)([ \t]++)-[ \t]++(?=[\d.$\\])")
# A sign in words, where no number precedes it: "it is minus 4" becomes "it is -4", "5 minus 4" stays.
_WORD = re.compile(r"(?<![\d)][ \t])(?<![\d)])\b(?:minus|negative)[ \t-](?=[$€£¥]?\.?\d)", re.IGNORECASE)
_RAISED = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_FRACTION = re.compile("[¼-¾⅐-⅞]")


def plain_signs(text: str) -> str:
    """Write minus signs, fullwidth forms and special spaces of a text in ASCII, in linear time."""
    text = text.translate(_PLAIN)
    text = _DASH.sub("-", text)
    text = _WORD.sub("-", text)
    return _APART.sub(lambda found: f"{found[1] or found[2] or ''}-", text)


def plain_formula(text: str) -> str:
    """Write a formula in LaTeX: also raised digits ("x²"), fractions ("½"), "×", "÷" and "π"."""
    text = _RAISED.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found[0]).replace(chr(0x2212), '-')}}}", text)
    text = _FRACTION.sub(_as_quotient, text)
    return plain_signs(text).translate(_LATEX)


def _as_quotient(found: re.Match[str]) -> str:
    value = unicodedata.normalize("NFKC", found[0]).replace("\u2044", "/")
    whole = found.start() and found.string[found.start() - 1].isdigit()  # "1½" is one and a half
    return f"+{value}" if whole else value
