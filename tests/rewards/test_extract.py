"""Tests for rewards/extract.py."""

import time

import pytest

from cotree.rewards.extract import LENIENT, boxes, extract


@pytest.mark.parametrize(
    ("completion", "answer", "rule"),
    [
        (r"so \boxed{1}, then \boxed{2}", "2", "boxed"),
        (r"so $\boxed{1}$ and $\boxed{2}$", "1, 2", "boxed"),
        (
            r"\boxed{(98, 2)} \quad \text{and} \quad \boxed{(99, 503)}",
            "(98, 2), (99, 503)",
            "boxed",
        ),
        (
            r"$\boxed{41}$, $\boxed{42}$, or $\boxed{43}$",
            r"41 \text{ or } 42 \text{ or } 43",
            "boxed",
        ),
        (r"\boxed{42} \boxed{42}", "42", "boxed"),  # said twice
        ("\\boxed{1}\n\n\\boxed{2}", "2", "boxed"),  # another paragraph
        (r"\fbox{7}", "7", "boxed"),
        (r"\boxed 7", "7", "boxed"),
        (r"\boxed{x = \boxed{42}}", "42", "boxed"),
        (r"the answer is \boxed{4}<|im_end|> \boxed{5}", "4", "boxed"),
        (r"<|im_start|>assistant \boxed{5}", "5", "boxed"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\boxed {7}", "7", "boxed"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}", "boxed"),  # escaped braces balance nothing
        (r"\boxed{\boxed{3}}", "3", "boxed"),
        (r"\boxed{5} and then \boxed{6", "5", "boxed"),  # the open one is not a box
        (r"\boxed{oops \boxed{6}", "6", "boxed"),
        (r"<think>\boxed{1}</think>\boxed{2}", "2", "boxed"),
        (r"<think>\boxed{1}</think>I give up", None, "none"),
        (r"a</think>b</think> the answer is 3", "3", "phrase"),
        ("<answer>41</answer> no: <answer> 42 </answer>", "42", "answer_tag"),
        ("</answer><answer>", None, "none"),
        ("work\n#### 72", "72", "hashes"),
        ("#### 1\n#### 72\nbye", "72", "hashes"),
        ("see #### 72", None, "none"),  # only at the start of a line
        ("#### Step 1\nThe answer is 5", "5", "phrase"),  # a heading
        ("#### yes", "yes", "hashes"),
        ("The answer is 3.5. I hope it is correct.", "3.5", "phrase"),
        ("**Answer:** 12\n", "12", "phrase"),
        ("Final answer: $x$", "$x$", "phrase"),
        ("answer is 1, no, the answer is 2", "2", "phrase"),
        ("A: 46", "46", "phrase"),
        (r"Answer \[ 9 \]", "9", "phrase"),
        ("**Final Answer**\n\n\\[\n 9 \n\\]\nDone.", "9", "phrase"),
        ("**Final Answer:**\n\n9", "9", "phrase"),
        (r"Final Answer: The volume of $ABCD$ is 120. I hope it is correct.", "120", "phrase"),
        (
            r"The final answer is $x-1=0$. I hope it is correct. <|im_start|>user",
            "$x-1=0$",
            "phrase",
        ),
        (r"The answer is $\frac56$ because it is.", r"$\frac56$", "phrase"),
        ("So the answer is $.35625$.", "$.35625$", "phrase"),  # that point ends no sentence
        ("The answer is $3$.", "$3$", "phrase"),
        (r"\boxed{255} is half. Final Answer: The final answer is $10$. I hope", "$10$", "phrase"),
        (r"The final answer is \boxed{9}.", "9", "boxed"),
        (r"Final answer: it is 8, so \boxed{9}", "9", "boxed"),
        ("Thus there are 12 such things. I hope it is correct.", "12", "phrase"),
        ("Thus there are 12 of 13. I hope it is correct.", None, "none"),  # which one?
        ("The answer to the question is 5.", "5", "phrase"),
        ("the answer is $41$ or $42$.", "$41$ or $42$", "phrase"),  # a hedge stays one
        ("The final answer is therefore 42.", "42", "phrase"),
        ("The correct option is C.", "C", "phrase"),
        ("<answer> The answer is 42 </answer>", "42", "answer_tag"),
        ("####42", "42", "hashes"),
        ("##### 42", None, "none"),
        ("Réponse : 12", "12", "phrase"),
        ("La respuesta final es: 5", "5", "phrase"),
        ("答えは 5 です。", "5", "phrase"),
        ("답은 5입니다.", "5", "phrase"),
        ("الجواب هو 5", "5", "phrase"),
        ("उत्तर: 5", "5", "phrase"),
        ("答案是：12。", "12", "phrase"),
        (r"The answer is 9. \boxed{8}", "8", "boxed"),  # a box outranks a phrase
        (r"\boxed{} the answer is 4", "4", "phrase"),  # a blank box commits to nothing
        ("I counted 42 sheep", None, "none"),  # never any number anywhere
        ("", None, "none"),
        ("<answer>The answer is 7</answer>", "7", "answer_tag"),
    ],
)
def test_the_answer_and_the_rule_that_found_it(completion: str, answer: str | None, rule: str):
    assert extract(completion) == (answer, rule)


@pytest.mark.parametrize(
    ("completion", "answer", "rule"),
    [
        (r"so $x$ is $\sqrt{4} = 2$ then", r"\sqrt{4} = 2", "math"),
        (r"Therefore \(x \gt 5\) holds", r"x \gt 5", "math"),
        ("$$\n1 + 1\n$$", "1 + 1", "math"),
        (r"it costs \$5", None, "none"),  # an escaped dollar sign opens nothing
        ("so $x=1$ and $y=2$ hold", "x=1, y=2", "math"),
        ("The point is (1,2).", "(1,2)", "bare"),
        ("3+2", "3+2", "bare"),
        ("17 square units", "17 square units", "bare"),
        ("first\n79 * 2 - 66 = 92", "92", "bare"),
        ("The result of all three is **92**.", "92", "bare"),
        ("first this\nTherefore, there are 12 of them.", "12 of them", "bare"),
        ("So\n7 apples", "7 apples", "bare"),
        ("Let me think step 7", None, "none"),  # a number in a sentence is no answer
        ("In step 7 I was wrong", None, "none"),
        ("There are 7 days in a week but I do not know", None, "none"),
        ("Problem 7:", None, "none"),
        ("7 of 12 are left", None, "none"),  # which one?
        (r"\boxed{4} or $5$", "4", "boxed"),
    ],
)
def test_lenient_rules_come_after_the_anchored_ones(completion: str, answer: str | None, rule: str):
    assert extract(completion, LENIENT) == (answer, rule)
    if rule in ("math", "bare"):
        assert extract(completion) == (None, "none")


def test_the_order_of_rules_is_the_callers():
    text = "<answer>1</answer> \\boxed{2}\n#### 3"
    assert extract(text, ("hashes", "boxed")) == ("3", "hashes")
    assert extract(text, ("answer_tag",)) == ("1", "answer_tag")


@pytest.mark.parametrize("order", [(), ("boxd",), ("boxed", "")])
def test_an_unknown_rule_is_an_error(order: tuple[str, ...]):
    with pytest.raises(ValueError, match="unknown extraction rules"):
        extract("1", order)


def test_a_box_knows_its_characters():
    text = r"x \boxed{a{b}} y \boxed{c}"
    first, second = boxes(text)
    assert text[first.start : first.end] == r"\boxed{a{b}}"
    assert first.content == "a{b}"
    assert text[second.start : second.end] == r"\boxed{c}"


@pytest.mark.parametrize(
    "unit",
    [
        r"\boxed{",
        "<answer>",
        "#### ",
        "answer is ",
        "answer ",
        "</think>",
        "{",
        "}",
        "\\",
        " ",
        "\n",
        r"\boxed{1},",
        r"\boxed{1} or ",
        "#### x\n",
        "#### 1\n",
        "$",
        r"\[",
        "**",
        "A:",
        "A:\n",
        "= 1",
        "1. ",
        " is ",
        "answer is is ",
        "<|im_end|>",
        "I hope it is correct",
    ],
)
def test_repeated_openings_take_linear_time(unit: str):
    # 100,000 repetitions: a quadratic scan would take a minute, a linear one well below a second.
    start = time.perf_counter()
    extract(unit * 100_000, LENIENT)
    assert time.perf_counter() - start < 5.0
