"""Closed lists of words that matter beside a number in running text.

A rule that reads arithmetic out of prose is wrong mostly about what stands next to it: "half of
10 = 5" is not `10 = 5`. Words in these lists make the reader abstain; all others are taken for
units or prose.
"""


def word_set(text: str) -> frozenset[str]:
    """The words of a text, as a list of them reads best in a source file."""
    return frozenset(text.split())


NUMBER_WORDS = word_set(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
    "eighty ninety hundred hundreds thousand thousands million millions billion billions "
    "trillion dozen dozens score pair pairs couple half halves third thirds quarter fourth "
    "fourths fifth fifths sixth sixths seventh eighth eighths ninth tenth tenths hundredth "
    "hundredths thousandths double doubled triple tripled twice thrice quadruple once"
)
"""They scale the number beside them."""

OPERATOR_WORDS = word_set(
    "times plus minus by over less more than fewer greater add added adding subtract "
    "subtracted subtracting multiply multiplied multiplying divide divided dividing increased "
    "decreased reduced sum difference product quotient ratio square squared cube cubed root "
    "power powers raised mod modulo remainder percent percentage factorial choose log gcd lcm "
    "max min average mean out from between to through until or"
)
"""They take the number beside them as an operand."""

SCALING_WORDS = NUMBER_WORDS | OPERATOR_WORDS | {"of", "and", "a", "an"}
"""None of these is a unit."""

COMPUTING_WORDS = word_set("times plus minus multiplied divided mod modulo remainder squared cubed")
"""They go on computing even after a unit: `5 apples plus 3`."""

JOINING_WORDS = word_set(
    "of to from by over than times and or more less fewer out between through until"
)
"""After a number they change it only if another number follows: `3 to 5`, but `84 to go`."""

LABEL_WORDS = word_set(
    "step case part problem question exercise example line equation eq section chapter figure "
    "table row column day week month year page pages grade level number no item option answer "
    "method round stage trial version room"
)
"""A number after one of these is a name: "Step 1 - 2 + 3 = 5" is about 2 + 3."""

TOTAL_WORDS = word_set(
    "total totals sum difference cost costs "
    "amount price profit income salary revenue distance length width "
    "height area volume speed rate value sale sales expense expenses savings payment fee tip "
    "result weight age population"
)
"""Before "of", these leave the number alone: "a total of 3 + 4 = 7"."""

DOUBT_WORDS = word_set(
    "not wrong incorrect incorrectly mistake mistaken mistakenly error false suppose "
    "supposing assume assuming assumes contradiction impossible isn't doesn't don't cannot "
    "can't couldn't wouldn't guess guessed pretend claim claims claimed thinks thought "
    "instead never neither mod modulo modulus base bases binary octal hexadecimal clock digit "
    "digits operation defined define defines remainder remainders approximate approximately "
    "roughly about around rounded round rounding rounds estimate estimated nearest almost "
    "nearly hundred thousand thousands million millions billion"
)
"""A false equality in a sentence with one of these may be meant, or be about other numbers."""

CONDITION_WORDS = word_set(
    "if when suppose let case or either at try trying test testing substitute plug where "
    "whenever unless otherwise for"
)
"""`x = 5` in a sentence with one of these may hold only there."""

CLAUSE_WORDS = word_set(
    "because so since then thus is are was were and if as but which that therefore hence "
    "gives get gets equals equal means would will has have had now we he she they it this"
)
"""They begin a clause, so they are no unit of the number before them."""

DIMENSIONS = {
    word: dimension
    for dimension, words in {
        "time": "second sec minute min hour hr day week month year decade century am pm fortnight",
        "length": "mm cm m km inch inches in foot feet ft yard yd mile mi meter metre kilometer "
        "centimeter millimeter kilometre",
        "mass": "mg g kg gram kilogram kilo ounce oz pound lb lbs ton tonne",
        "volume": "ml l liter litre milliliter cup pint quart gallon tablespoon teaspoon",
        "money": "dollar cent penny pennies nickel dime quarter buck euro pound",
    }.items()
    for word in words.split()
}
"""Units between which people convert inside one equation (`2 hours + 30 minutes = 150`)."""

CONVERSIONS = frozenset((2, 3, 4, 7, 8, 10, 12, 16, 24, 30, 36, 52, 60, 100, 365, 1000, 3600, 5280))
"""Factors between them: `2 * 60 = 2 hours` is right in minutes."""

GLUED_UNITS = word_set("mm cm km kg mg ml lb lbs oz ft mph hr hrs hours kmh kph mi yd sec")
"""Unit abbreviations that stand directly after a number and are no product of variables."""


def stem(word: str) -> str:
    """The singular of a unit, near enough to compare two of them: `apples` and `apple` agree."""
    word = word.lower()
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
