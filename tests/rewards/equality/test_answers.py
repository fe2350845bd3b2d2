"""Tests for rewards/equality/answers.py: one table for each policy."""

import pytest

from cotree.rewards.equality.answers import Outcome, check_reference, compare

EQUAL = {
    "integers are exact": [
        ("42", "42."),
        ("42", "+42"),
        ("025", "25"),
        ("1234", "1,234"),
        ("1234567", "1 234 567"),
        ("10080", r"10,\!080"),
        ("1.23e5", "123000"),
        ("120", "5!"),
        ("1024", "2^{10}"),
        ("1024", "2**10"),
        ("5", "5.0"),
    ],
    "a decimal comma is read where nothing else fits": [
        ("1,22", "1.22"),
        ("10.5", "10,5"),
        ("1000.99", "1.000,99"),
        ("1000.99", "1 000,99"),
    ],
    "fractions are exact in every spelling": [
        ("1/3", r"\dfrac{1}{3}"),
        ("0.5", r"\frac12"),
        ("3/4", "¾"),
        (r"-\frac{1}{2}", r"\frac{1}{-2}"),
        (r"\frac{9}{5}", r"1\frac{4}{5}"),
        (r"137 \frac{1}{2}", "137.5"),
        ("8/46", r"\frac{4}{23}"),
    ],
    "a decimal reference is met by what rounds to it": [
        ("16386.17", "16386.169"),
        ("3.33333333", r"\frac{10}{3}"),
        ("6.67", "20/3"),
        ("21.93", r"21\frac{13}{14}"),
        ("0.33", r"\frac13"),
        (r"41.4\%", r"\sqrt{2}-1"),
    ],
    "an endless number is met by six right digits": [
        (r"\frac13", "0.3333333333"),
        (r"\frac23", "0.666667"),
        (r"\frac23", "0.666666"),
        (r"\pi", "3.14159"),
        (r"\sqrt2", "1.41421356"),
    ],
    "a percent sign is a hundredth, or the unit the other side leaves out": [
        (r"28\%", "28 percent"),
        (r"28\%", "0.28"),
        (r"28\%", "28"),
        ("3", r"300\%"),
        ("0.5", r"50\%"),
        (r"32.8\%", r"\frac{41}{125}"),
    ],
    "a unit is dropped when one side has none": [
        (r"864 \mbox{ inches}^2", "864"),
        (r"15\mbox{ cm}^2", r"15 \text{ square centimeters}"),
        ("17", r"17\text{ apples}"),
        (r"\$18.90", "18.90"),
        (r"\$36", "36 dollars"),
        (r"\frac{41}{12}", r"\dfrac{41}{12} \text{ km}"),
    ],
    "degrees are a unit, or radians where pi is written": [
        (r"90^\circ", "90"),
        ("90", r"90^{\circ}"),
        (r"\frac{\pi}{6}", r"30^\circ"),
        (r"30^\circ", r"\frac{\pi}{6}"),
        (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ"),
    ],
    "a point is compared by position": [
        ("(1,-16,-4,43)", "(1, -16, -4, 43)"),
        ("(1,2)", "1,2"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
        ("(p,q)=(3,2)", "(3,2)"),
        ("(3,2)", "(x, y) = (3, 2)"),
        ("1,2,3", "(x, y, z) = (1, 2, 3)"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)"),
        (r"\langle 1, 2, 3\rangle", "(1,2,3)"),
    ],
    "listings and sets are matched in any order": [
        ("1,-2", "-2, 1"),
        ("3, 5, 7", r"\{7, 5, 3\}"),
        ("5,15", r"5 \text{ and } 15"),
        ("(6,3),(9,3),(9,5)", "(9, 3), (6, 3), (9, 5)"),
        ("x=1, x=2", "1, 2"),
        ("1, 2", r"x = 1 \text{ or } x = 2"),
        ("1, 2", r"x \in \{1, 2\}"),
        (r"\{1, 2\}", r"\{2, 1, 1\}"),
        (r"2^{-2 / 3}$, $8", r"8, \frac{1}{\sqrt[3]{4}}"),
        ("n=1, 2, 3", "n = 3, 2, 1"),
    ],
    "plus-minus stands for two values": [
        (r"\pm 2021", "{-2021, 2021}"),
        (r"1 \pm \sqrt{19}", r"1 + \sqrt{19}, 1 - \sqrt{19}"),
        (r"\{1\pm\sqrt{5},-2\}", r"-2, 1-\sqrt5, 1+\sqrt5"),
        (r"x = \frac{-1 \pm \sqrt{13}}{4}", r"\frac{-1 + \sqrt{13}}{4}, \frac{-1 - \sqrt{13}}{4}"),
        (r"0, \pm 1, \pm 2", r"\{-2, -1, 0, 1, 2\}"),
        (r"x = \pm 3", r"x = 3 \text{ or } x = -3"),
    ],
    "different names are matched by name, or by position where one side has none": [
        ("x=1, y=2", "y=2, x=1"),
        ("AB=4,CD=5", "4, 5"),
        ("3,4", "p=3, q=4"),
        ("(1,2)", "x=1, y=2"),
    ],
    "intervals, inequalities and set builders are one kind of thing": [
        ("x > 5", r"(5, \infty)"),
        (r"(5,\infty)", "x > 5"),
        ("x > 5", "5 < x"),
        (r"x \in [-2,7]", r"-2 \le x \le 7"),
        ("(3,4]", r"3 < \lambda \leq 4"),
        (r"\{x \mid x > 5\}", r"(5, +\infty)"),
        ("x <= 1", "-x >= -1"),
        ("x < 3", "2x + 1 < 7"),
        ("-2 < x < 2", "|x| < 2"),
        (r"1\leq|z|\leq \frac{3}{2}", r"z \in [-\frac{3}{2}, -1] \cup [1, \frac{3}{2}]"),
        ("(-793, 10)", "-793 < a < 10"),
        ("0 < x < 1", "(0, 1)"),
        (r"(-\infty, 2) \cup (3, \infty)", r"x < 2 \text{ or } x > 3"),
        (r"a \leqslant -2 \text{ or } a = 1", r"(-\infty, -2] \cup \{1\}"),
        (r"(0,9) \cup (9,36)", r"(9,36) \cup (0,9)"),
        ("[0,2]", r"[0,1] \cup [1,2]"),
        (r"x \ne 2", r"(-\infty, 2) \cup (2, \infty)"),
        (r"\mathbb{R} \setminus \{2\}", r"x \neq 2"),
        (r"(-\infty, \infty)", r"\mathbb{R}"),
        (r"]1, 2[", "(1, 2)"),
        (r"m \geq \sqrt{2}", r"m \in [\sqrt{2}, +\infty)"),
        (r"\left(\frac{3}{5},\frac{8}{3}\right]", r"(0.6, \frac83]"),
        ("1 < x < a", "(1, a)"),
    ],
    "an equation names a value, or equals up to a constant factor": [
        ("x=5", "5"),
        ("5", "x = 5"),
        ("x=5", "5=x"),
        ("f(x)=x+22", "x+22"),
        (r"\frac{NO}{BO}=\frac{1}{\sqrt{6}}", r"\frac{1}{\sqrt{6}}"),
        ("7", "m + n = 7"),
        ("2", r"\sqrt{4} = 2"),
        ("11", "x = 5 + 6 = 11"),
        ("x+y=3", "2x+2y=6"),
        ("y = 2x + 3", "2x - y + 3 = 0"),
        ("2x+4y-3=0", "y = -1/2*x + 3/4"),
        ("x^2/4 + y^2/3 = 1", "3x^2 + 4y^2 = 12"),
        ("5x - 7y + 11z + 4 = 0", "-5x + 7y - 11z = 4"),
        (r"S_n = \frac{1}{2}(3^n - 1)", r"\frac{3^n - 1}{2}"),
        ("x + y < 3", "6 > 2x + 2y"),
        ("f(x) = x + 1", "y = x + 1"),
    ],
    "what is exact counts, not its approximation": [
        (r"\frac{\sqrt{3}}{3}", r"\frac{\sqrt{3}}{3} \approx 0.577"),
        (r"\frac{\sqrt{3}}{3} \approx 0.577", r"\frac{1}{\sqrt3}"),
        ("1/3", r"x = 1/3 \approx 0.33"),
        ("0.577", r"x \approx 0.577"),
    ],
    "the argument's name is free": [("f(z)=z", "f(x)=x"), ("f(n) = 2 n+1007", "f(m) = 2m + 1007")],
    "a choice is its letter": [
        ("C", "(C)"),
        (r"\text{(C)}", "C"),
        (r"\textbf{A}", "A"),
        ("B", "B. 12"),
        ("(B)", r"\textbf{(B)}\ 12"),
        (r"\textbf{(B)}\ 12", "12"),
        (r"\textbf{(D) }\frac{1}{3}", r"\frac13"),
    ],
    "ratios are proportions": [("3:4", "6:8"), ("1 : (4/3)", r"\frac34"), ("1:2:3", "2:4:6")],
    "a numeral keeps its base, which may go unsaid": [
        ("2516_8", "2516_{8}"),
        ("204_5", "204"),
        ("11", "1011_2"),
    ],
    "matrices are compared entry by entry": [
        (r"\begin{bmatrix}0 & 0 \\0 & 1\end{bmatrix}", r"\begin{pmatrix}0&0\\0&1\end{pmatrix}"),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix}0.2\\-3.6\end{pmatrix}"),
    ],
    "words have no case": [
        (r"\text{Evelyn}", "evelyn"),
        (r"\text{even}", "Even"),
        (r"\text{ellipse}", r"\text{an ellipse}"),
        (r"\text{no solution}", r"\emptyset"),
    ],
    "expressions are equal as mathematics": [
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("3+4i", "4i+3"),
        ("(a+5)(b+2)", "ab + 2a + 5b + 10"),
        (r"\cot x", r"\frac{\cos x}{\sin x}"),
        (r"5 \sqrt[3]{4}", r"5 \cdot 2^{2/3}"),
        (r"1 - \frac{1}{\mathrm{e}}", "1 - e^{-1}"),
        (r"\infty", "∞"),
    ],
}

DIFFERENT = {
    "no tolerance on integers": [
        ("699", "699.04"),
        ("123456789", "123456790"),
        ("204", "203.99999999999999"),
        ("1000000", "1000000.0000001"),
        ("5.0", "5.04"),
    ],
    "a comma before three digits groups": [("1.234", "1,234"), ("1,234", "1.234"), ("1,22", "122")],
    "a decimal must round to the reference": [
        ("16386.16", "16384.60"),
        ("3.14", "3.1"),
        ("0.5", "0.54"),
        ("0.25", "0.26"),
        (r"41.4\%", r"28.5\%"),
        ("41.494", r"17 + 10\sqrt{2}"),
    ],
    "an exact reference wants an exact answer": [
        (r"\pi", "3.14"),
        (r"\frac{22}{7}", r"\pi"),
        ("1/3", "0.33"),
        ("1/8", "0.1250001"),
        (r"\sqrt2", "1.414"),
    ],
    "no percent without its sign": [
        ("12", "0.12"),
        ("0.5", "50"),
        (r"28\%", "0.0028"),
        ("1", "100"),
    ],
    "two units of measure disagree": [
        (r"5 \text{ cm}", r"5 \text{ m}"),
        (r"5 \text{ cm}", r"5 \text{ cm}^2"),
        (r"\$5", "5 cents"),
    ],
    "points have positions and brackets": [
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("[1,2)", "(1,2)"),
        ("(1,2)", "12"),
        ("(1,2,3)", "(1,2)"),
        (r"\{1,2\}", "(1,2)"),
    ],
    "a listing holds every value, and as often": [
        ("1,2", "1"),
        ("1", "1,2"),
        ("1,1,2", "1,2,2"),
        ("19, 46, 82", "21, 46, 82"),
        (r"\pm 3", "3"),
        ("3", r"\pm 3"),
    ],
    "names are kept": [
        ("x=5", "y=5"),
        ("x=1, y=2", "x=2, y=1"),
        ("AB=4,CD=5", "5, 4"),
        ("f(z)=z", "f(x)=x+1"),
        ("x > 5", "y > 5"),
    ],
    "intervals have ends": [
        ("x > 5", "x < 5"),
        ("x > 5", r"x \ge 5"),
        ("(3,4]", "[3,4]"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2] \cup (3, \infty)"),
        ("(0,2)", r"(0,1) \cup (1,2)"),
        (r"x \ne 2", r"\mathbb{R}"),
        ("-2 < x < 2", "|x| > 2"),
        ("x + y < 3", "2x + 2y > 6"),
        ("x + y < 3", r"x + y \le 3"),
    ],
    "equations say something": [
        ("2x+3y=0", "0=0"),
        ("x+y=3", "x+y=4"),
        ("a + 3z = 0", "0"),
        ("3x-y+13=0", "3x + 4y + 14=0"),
        ("x+y=3", "3"),
        ("2x=6", "6"),
        ("y = 2x + 3", "2x + 3 = 0"),
    ],
    "a hedge is wrong": [
        ("42", r"41 \text{ or } 42"),
        ("42", "[0,100]"),
        ("5", r"x \ge 5"),
        ("x=5", r"x=5 \text{ or } x=6"),
        ("42", "41, 42"),
        ("42", r"\{41, 42\}"),
        ("42", r"42 \pm 1"),
        ("D", "A, B, C, D"),
        ("E", "A B C D E"),
        ("42", r"x \in \{41, 42\}"),
        ("42", r"\mathbb{R}"),
    ],
    "nothing is not zero": [
        ("0", ""),
        ("0", " "),
        ("0", "nan"),
        ("1", r"\frac{0}{0}"),
        ("42", "inf"),
    ],
    "choices differ": [("C", "D"), (r"\text{(C)}", "(B)"), ("A", "B. 12")],
    "times are not ratios": [("12:00", "1:00"), ("10:30", "5:15"), ("3:4", "4:3")],
    "numerals keep their digits and base": [
        ("2516_8", "2516_7"),
        ("204_5", "54"),
        ("204_5", "205_5"),
    ],
    "matrices keep their shape": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    ],
    "words differ": [(r"\text{Monday}", "Tuesday"), (r"\text{even}", "odd"), ("odd", "not odd")],
    "expressions differ": [
        ("|x|", "x"),
        (r"\sqrt{x^2}", "x"),
        ("4", r"4\sqrt{2}"),
        ("x+2n+1", "x+1"),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
        (r"(2+\sqrt{3})^{1000}", r"(2+\sqrt{3})^{1001}"),
    ],
}


@pytest.mark.parametrize(
    ("reference", "answer"),
    [pytest.param(*pair, id=f"{rule}: {pair}") for rule, pairs in EQUAL.items() for pair in pairs],
)
def test_answers_that_are_right(reference: str, answer: str):
    assert compare(reference, answer).outcome is Outcome.EQUAL


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        pytest.param(*pair, id=f"{rule}: {pair}")
        for rule, pairs in DIFFERENT.items()
        for pair in pairs
    ],
)
def test_answers_that_are_wrong(reference: str, answer: str):
    assert compare(reference, answer).outcome is not Outcome.EQUAL


@pytest.mark.parametrize(
    "answer",
    ["9" * 200_000, "(" * 6000 + "12", "1+" * 20_000 + "1", "9^{9^{9}}", r"\foo{", "", "1,2,"],
)
def test_no_text_makes_it_raise(answer: str):
    assert compare("12", answer).outcome is not Outcome.EQUAL


@pytest.mark.parametrize("reference", ["", "  ", "$$", r"\foo{", r"\frac{1}{"])
def test_a_reference_that_cannot_be_read_is_refused(reference: str):
    with pytest.raises(ValueError, match=r"blank|cannot be read"):
        check_reference(reference)


def test_the_outcome_says_what_decided():
    assert compare("12", "12").method == "text"
    assert compare("12", "24/2").method == "exact"
    assert compare("(1,2]", "1 < x <= 2").method == "interval"
    assert compare("12", r"\foo{").outcome is Outcome.UNREADABLE
