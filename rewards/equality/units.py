r"""Units of measure by name: `cm`, `centimeters` and `\text{ cm}` are one unit. No conversions."""

import re

_SYNONYMS = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "dm": "dm decimeter decimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "yr year",
    "mg": "mg milligram",
    "g": "g gram gramme",
    "kg": "kg kilogram",
    "ton": "t ton tonne",
    "lb": "lb lbs pound",
    "oz": "oz ounce",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "gal": "gal gallon",
    "mi/h": "mph",
    "km/h": "kmh kph",
    "$": "$ dollar usd",
    "cent": "cent ¢",
    "eur": "€ euro eur",
    "gbp": "£ gbp",
    "deg": "degree deg",
    "rad": "radian rad",
    "am": "am",
    "pm": "pm",
}
_UNIT = {
    spelling: unit
    for unit, spellings in _SYNONYMS.items()
    for word in spellings.split()
    for spelling in (word, f"{word}s")
}
_SQUARE = re.compile(r"\b(?:square|sq)\b|\bsquared\b|²")
_CUBIC = re.compile(r"\b(?:cubic|cu|cubed)\b|³")
_WRAPPER = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|rm|operatorname|hbox)\b|[{}]|\\[,;:! ]")
_MERIDIEM = re.compile(r"\b([ap])\.\s?m\b\.?")
_TOKEN = re.compile(r"[a-z]+|[$€£¢/]|\^?-?[0-9]+")


def unit_name(text: str) -> str | None:
    r"""The unit in canonical spelling: `cm2` for `\text{ square centimeters}`; None if unknown.

    Words that measure nothing ("apples", "units") are no units; an answer may add or drop them.
    """
    text = _MERIDIEM.sub(r"\1m", _WRAPPER.sub(" ", text).lower())
    power = "2" if _SQUARE.search(text) else "3" if _CUBIC.search(text) else ""
    text = _CUBIC.sub(" ", _SQUARE.sub(" ", text))
    parts: list[str] = []
    for token in _TOKEN.findall(text):
        if token in ("/", "per"):
            parts.append("/")
        elif token.lstrip("^").lstrip("-").isdigit():
            parts.append(token.lstrip("^"))
        elif token in _UNIT:
            parts.append(_UNIT[token])
        else:
            return None
    return ("".join(parts) + power) or None


def units_agree(left: str, right: str) -> bool:
    """Whether nothing speaks against it: only two known units that differ disagree."""
    first, second = unit_name(left), unit_name(right)
    return first is None or second is None or first == second
