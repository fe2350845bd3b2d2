"""Families of answers as people and models write them, with what must not pass beside them."""

import pytest

from cotree.rewards.equality.answers import Outcome, compare

EQUAL = {
    "a presentation of 17": [
        ("17", answer)
        for answer in (
            r"\large 17", r"{\Large 17}", r"\color{red}{17}", r"\textcolor{blue}{17}", r"{\rm 17}",
            r"\ensuremath{17}", r"\hbox{17}", r"\text{17}", r"\mathrm{17}", r"\text{$17$}", "17\\",
            '"17"', "\u201c17\u201d", r"\text{Answer: }17", r"\text{The answer is } 17", "17,",
            r"17\checkmark", r"\text{ans: 17}", r"\Large\text{17}", r"17\text{.}",
        )
    ],
    "systems and their solutions": [
        (r"\left\{\begin{array}{l}x=1 \\ y=2\end{array}\right.", "x=1, y=2"),
        (r"\left\{\begin{array}{l}x=1 \\ y=2\end{array}\right.", "(1,2)"),
        (r"\begin{cases}x=1\\y=2\end{cases}", r"\begin{aligned}x&=1\\y&=2\end{aligned}"),
        (r"\begin{cases}x=1,\\y=2.\end{cases}", "(x,y)=(1,2)"),
        (r"\begin{cases}x=1\\y=2\end{cases}", r"y=2 \text{ and } x=1"),
    ],
    "piecewise values": [
        (
            r"f(x)=\begin{cases} x & x \ge 0 \\ -x & x < 0 \end{cases}",
            r"\begin{cases} -x, & \text{if } x<0 \\ x, & \text{if } x\ge 0\end{cases}",
        ),
        (
            r"\begin{cases} 2^n & \text{if } n \ge 1 \\ 0 & \text{otherwise} \end{cases}",
            r"\begin{cases} 0, & \text{otherwise} \\ 2^{n}, & n \ge 1 \end{cases}",
        ),
    ],
    "chains and names": [
        ("5", "2+3=5"), ("1/3", r"\frac13=0.333"), ("(0,0,0)", "x=y=z=0"), ("a=b=c", "c=b=a"),
        ("x=2,y=2", "x=y=2"), ("x_1=2, x_2=3", "x_1=3, x_2=2"), ("a_n=3n-2", "a_k=3k-2"),
        ("S_{ABC}=6", "S=6"), (r"\lim_{n\to\infty} a_n=2", "2"), ("P(A)=2", "2"),
        (r"\mathbb{Z}", r"x\in\mathbb{Z}"), (r"\sin x+C", r"\sin x+c"),
        ("x=3", r"2x=6\Rightarrow x=3"),
        (r"BD=12", r"\overline{BD}=12"), (r"\overline{AB}", "AB"),
    ],
    "lists": [
        (r"\text{Alice, Bob}", "Alice and Bob"), ("Tom and Jerry", "Jerry, Tom"),
        ("①③④", "①, ③, ④"), ("②④", r"④\text{ and }②"), ("98,99,100", "100, 98, 99"),
        ("100,200,300", "100, 200, 300"), ("100, 200, 300", "100,200,300"),
        ("3, 4", r"\text{3 or 4}"),
        (r"3x-4y+5=0 \text{ or } x=1", "x-1=0, 3x-4y+5=0"),
        (r"\left\{\left.x\right|-1<x<3\right\}", "(-1,3)"),
        ("(n-1)2^{n+1}+2", "n2^{n+1}-2^{n+1}+2"),
    ],
    "units": [
        ("1.5 hours", "1.5 h"), ("36 m^2", r"36\text{ square meters}"), ("120 km/h", "120 kph"),
        ("45 minutes", r"45\text{ min}"), (r"36\text{ sq. m}", "36 m^2"), ("4 p.m.", "4:00 PM"),
        (r"7.5\text{ m/s}", r"7.5\ \mathrm{m\,s^{-1}}"), ("10 cc", r"10\text{ cm}^3"),
    ],
    "bases, ratios, binomials, matrices": [
        ("1011_2", r"1011_{\text{two}}"), ("1101_2", "(1101)_2"), ("1011_2", r"1011_{(2)}"),
        ("5:7", "5 to 7"), ("15", "C_6^2"), ("15", "{}^6C_2"), ("15", "C(6,2)"),
        (r"\binom{n}{2}", "C_n^2"), ("-2", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
        (r"\begin{pmatrix}2&0\\0&2\end{pmatrix}", r"2\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
        (r"\frac13", "0.333..."),
    ],
}  # fmt: skip
DIFFERENT = {
    "chains that commit to nothing": [
        ("3", "4=3"), ("42", "43=42"), ("x=5", "x=6=5"), ("1", "1=1"), ("18", "17.8=18"),
        ("18", r"17\approx18"), ("5", "2+3=6"),
    ],
    "systems": [
        (r"\begin{cases}x=1\\y=2\end{cases}", r"\begin{cases}x=2\\y=1\end{cases}"),
        (r"\begin{cases}x=1\\y=2\end{cases}", "x=1"),
        (
            r"\begin{cases}x & x>0\\-x & x<0\end{cases}",
            r"\begin{cases}-x & x>0\\x & x<0\end{cases}",
        ),
        (r"\begin{cases}x & x>0\\-x & x<0\end{cases}", "x"),
        (r"\begin{cases}x & x>0\\-x & x<0\end{cases}", r"\begin{cases}x & x>0\end{cases}"),
    ],
    "names": [
        ("(0,0,0)", "x=y=z=1"), ("(0,0,0)", "x=y=0"), ("a=b=c", "a=b"), ("a=b=c", "a=b=d"),
        ("a_1=2,a_2=3", "a_1=3,a_2=2"), ("a_1=5", "a_2=5"), ("a_n=3n", "a_k=3n"), ("x+C", "x+2c"),
        (r"\mathbb{Z}", r"x\in\mathbb{N}"), (r"\overline{AB}", r"\overline{CD}"),
    ],
    "lists": [
        (r"\text{Alice, Bob}", "Alice"), (r"\text{Alice, Bob}", "Alice or Bob"), ("①③", "13"),
        ("13", "①③"), ("1", "①"), ("98,99,100", "9899100"), ("1,234", "1, 234"),
        ("1,234,567", "1, 234, 567"), ("98,99,100", "98,99,101"),
    ],
    "units and times": [
        ("36 m^2", "36 m"), ("5 s", "5 m"), ("1.5 h", "1.5 min"), ("4 pm", "4 am"),
        ("4:30 pm", "4 pm"), ("5:7", "7 to 5"),
    ],
    "hedges around words that announce": [
        ("17", r"\text{Answer: 18}"), ("17", r"\text{Answer: 17 or 18}"), ("7", '"7", "8"'),
        ("12", r"\text{12, 13}"), ("17", r"\text{not 17}"),
    ],
    "unevaluated integrals": [(r"\frac13", r"\int_0^1 x^2\,dx")],
}  # fmt: skip


def rows(table: dict[str, list[tuple[str, str]]]) -> list[tuple[str, str, str]]:
    return [(family, *pair) for family, pairs in table.items() for pair in pairs]


@pytest.mark.parametrize(("family", "reference", "answer"), rows(EQUAL))
def test_equal(family: str, reference: str, answer: str):
    assert compare(reference, answer).outcome is Outcome.EQUAL, family


@pytest.mark.parametrize(("family", "reference", "answer"), rows(DIFFERENT))
def test_not_equal(family: str, reference: str, answer: str):
    assert compare(reference, answer).outcome is not Outcome.EQUAL, family
