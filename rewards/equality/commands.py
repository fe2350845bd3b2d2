# ruff: noqa: SIM905 - tables of words read best as text
r"""What LaTeX commands mean, as tables. A command that is in none of them is a parse error."""

from cotree.rewards.equality.nodes import Comparison

GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma "
    "tau upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega "
    "ell hbar partial nabla aleph".split()
)
VARIANTS = {
    "varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi", "varrho": "rho",
    "varsigma": "sigma", "varkappa": "kappa", "varpi": "pi",
}  # fmt: skip
CONSTANTS = {
    "pi": "pi", "infty": "inf", "infin": "inf", "emptyset": "empty", "varnothing": "empty",
    "imath": "i", "R": "reals", "Z": "integers", "N": "naturals", "Q": "rationals",
    "reals": "reals",
}  # fmt: skip
BLACKBOARD = {"R": "reals", "Z": "integers", "N": "naturals", "Q": "rationals"}

TRIGONOMETRIC = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc "
    "sinh cosh tanh coth sech csch arcsinh arccosh arctanh".split()
)
FUNCTION_SPELLINGS = {
    "cosec": "csc", "tg": "tan", "ctg": "cot", "arctg": "arctan", "arcctg": "arccot",
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "arsinh": "arcsinh", "arcosh": "arccosh",
    "artanh": "arctanh", "lg": "log", "cbrt": "cbrt", "Re": "re", "Im": "im", "sgn": "sign",
    "ceil": "ceil", "hcf": "gcd", "GCD": "gcd", "LCM": "lcm", "Arg": "arg", "nCr": "binom",
}  # fmt: skip
FUNCTIONS = TRIGONOMETRIC | frozenset(
    "exp ln log sqrt cbrt abs gcd lcm min max floor ceil sign arg re im conj det cis".split()
)
BIG_OPERATORS = frozenset({"sum", "prod", "int", "lim"})

RELATIONS: dict[str, Comparison] = {
    "=": "=", "==": "=", ":=": "=", "!=": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">=",
    "=<": "<=", "=>": ">=", "≈": "approx",
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "ge": ">=", "geq": ">=",
    "geqslant": ">=", "geqq": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=",
    "in": "in", "approx": "approx", "simeq": "approx", "sim": "approx", "cong": "approx",
    "thickapprox": "approx", "doteq": "approx", "equiv": "=", "coloneqq": "=", "triangleq": "=",
}  # fmt: skip
SET_OPERATORS = {
    "cup": "union", "bigcup": "union", "cupdot": "union", "sqcup": "union", "uplus": "union",
    "cap": "intersection", "bigcap": "intersection", "setminus": "difference",
    "smallsetminus": "difference", "backslash": "difference",
}  # fmt: skip
MULTIPLY = frozenset({"cdot", "times", "ast", "bullet", "star"})
OPEN = {"lbrace": "{", "{": "{", "langle": "<", "lbrack": "[", "lparen": "("}
CLOSE = {"rbrace": "}", "}": "}", "rangle": ">", "rbrack": "]", "rparen": ")"}
FENCES = {
    "lvert": "rvert", "lVert": "rVert", "lfloor": "rfloor", "lceil": "rceil",
}  # fmt: skip
FENCE_FUNCTIONS = {"lvert": "abs", "lVert": "norm", "lfloor": "floor", "lceil": "ceil"}
ELLIPSES = frozenset({"ldots", "cdots", "dots", "dotsc", "dotsb", "vdots", "ddots", "hdots"})

TEXT_WRAPPERS = frozenset(
    "text textbf textit textrm textsf texttt textnormal textup mbox hbox mathrm operatorname "
    "emph textsc textmd textsl mathtt mathnormal operatorname* mathop".split()
)
LETTER_WRAPPERS = frozenset(
    "mathbf boldsymbol bm mathit mathsf mathcal mathfrak mathscr pmb vec hat bar overline dot ddot "
    "tilde widehat widetilde overrightarrow overleftarrow underline boxed fbox mathbb overset "
    "overarc".split()
)
NAMERS = frozenset({"angle", "triangle", "measuredangle", "odot", "square", "Box", "Delta"})

DROPPED = frozenset(
    "displaystyle textstyle scriptstyle limits nolimits rm bf it sf tt boldmath hline centering "
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm "
    "therefore nonumber notag mathstrut relax allowbreak nobreak tiny scriptsize footnotesize "
    "small normalsize large Large LARGE huge Huge bfseries itshape mdseries upshape rmfamily "
    "sffamily ttfamily normalfont selectfont strut ensuremath smash mathord mathbin mathrel "
    "mathopen mathclose mathinner centerline checkmark blacksquare qed qedsymbol noindent par "
    "because hfil unboldmath protect null".split()
)
SPACES = frozenset(
    ", ; : > ! quad qquad enspace enskip thinspace medspace thickspace negthinspace nobreakspace "
    "space hfill newline".split()
) | {" ", "\t", "\n"}
SPELLINGS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom",
    "textcirc": "circ", "degree": "circ", "textdegree": "circ", "textpi": "pi", "lor": "or",
    "vee": "or", "land": "and", "wedge": "and", "prime": "'", "textgreater": ">",
    "textless": "<", "textbackslash": "setminus", "colon": ":", "vert": "|", "mid": "mid",
    "Vert": "|", "textpercent": "%", "And": "and", "dotsm": "cdots", "iint": "int",
    "complement": "c", "implies": "Rightarrow", "Longrightarrow": "Rightarrow",
    "textdollar": "$", "pounds": "£", "euro": "€", "lnot": "not",
}  # fmt: skip
"""Commands that only spell another one, or a character, differently."""

ENVIRONMENTS = frozenset(
    "pmatrix bmatrix Bmatrix vmatrix Vmatrix matrix smallmatrix psmallmatrix bsmallmatrix array "
    "cases dcases rcases align align* aligned alignedat gathered gather gather* split".split()
)
STRUCTURE = frozenset(
    "frac sqrt binom choose begin end pmod bmod mod div over pm mp circ to text hspace vspace "
    "phantom color textcolor pmb tag".split()
)
KNOWN = frozenset().union(
    GREEK, VARIANTS, CONSTANTS, FUNCTIONS, FUNCTION_SPELLINGS, BIG_OPERATORS, RELATIONS,
    SET_OPERATORS, MULTIPLY, OPEN, CLOSE, FENCES, FENCES.values(), ELLIPSES, TEXT_WRAPPERS,
    LETTER_WRAPPERS, NAMERS, DROPPED, SPACES, SPELLINGS, STRUCTURE,
)  # fmt: skip
"""Every command the parser reads; used to recognise doubly escaped ones."""
