r"""Units of measure by name: `cm`, `centimeters` and `\text{ cm}` are one unit. No conversions."""

import re
from collections import Counter

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
    "week": "wk week",
    "month": "mo month",
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
    "$": "$ dollar usd",
    "cent": "cent ¢",
    "eur": "€ euro eur",
    "gbp": "£ gbp",
    "deg": "degree deg",
    "celsius": "°c celsius",
    "fahrenheit": "°f fahrenheit",
    "rad": "radian rad",
    "j": "j joule",
    "n": "n newton",
    "w": "w watt",
    "kw": "kw kilowatt",
    "v": "v volt",
    "hz": "hz hertz",
    "pa": "pa pascal",
    "mol": "mol mole",
    "am": "am",
    "pm": "pm",
}
_UNIT = {
    spelling: unit
    for unit, spellings in _SYNONYMS.items()
    for word in spellings.split()
    for spelling in ((word, f"{word}s") if len(word) > 1 else (word,))
}
_COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "fps": "ft/s", "kmph": "km/h"}
_SQUARE = re.compile(r"\b(?:square|sq) ([a-z]+)|([a-z]+) ?(?:squared\b|²)")
_CUBIC = re.compile(r"\b(?:cubic|cu) ([a-z]+)|([a-z]+) ?(?:cubed\b|³)|\bcc\b")
_WRAPPER = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|rm|operatorname|hbox)\b|[{}]|\\[,;:! ]")
_MERIDIEM = re.compile(r"\b([ap])\.\s?m\b\.?")
_TOKEN = re.compile(r"°?[a-z]+|[$€£¢/]|\^?-?[0-9]+")
_SCALE = re.compile(r"\bdegrees? (?=celsius|fahrenheit)")
_MAX_POWER_DIGITS = 3


def unit_name(text: str) -> str | None:
    r"""The unit in canonical spelling: `cm^2` for `\text{ square centimeters}`; None if unknown.

    Words that measure nothing ("apples", "units") are no units; an answer may add or drop them.
    """
    text = _SCALE.sub("", _MERIDIEM.sub(r"\1m", _WRAPPER.sub(" ", text).lower()))
    text = " ".join(text.replace("*", " ").replace(".", " ").split())
    text = _SQUARE.sub(lambda m: f"{m[1] or m[2]}^2", text)
    text = _CUBIC.sub(lambda m: f"{m[1] or m[2] or 'cm'}^3", text)
    for short, spelled in _COMPOUND.items():
        text = re.sub(rf"\b{short}\b", spelled, text)
    powers: Counter[str] = Counter()
    sign, last = 1, ""
    for token in _TOKEN.findall(text):
        if token in ("/", "per"):
            sign = -1
        elif token.lstrip("^-").isdigit():
            if not last or len(token) > _MAX_POWER_DIGITS:
                return None
            powers[last] += sign * (int(token.lstrip("^")) - 1)
        elif token in _UNIT:
            last = _UNIT[token]
            powers[last] += sign
        else:
            return None
    named = [f"{unit}^{power}" for unit, power in sorted(powers.items()) if power]
    return " ".join(each.removesuffix("^1") for each in named) or None


def units_agree(left: str, right: str) -> bool:
    """Whether nothing speaks against it: only two known units that differ disagree."""
    first, second = unit_name(left), unit_name(right)
    return first is None or second is None or first == second
