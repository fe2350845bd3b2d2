"""Tests for grpo/distilling/path_outcomes.py: tables that do not fit, and other ways to write."""

import numpy as np
import pytest

from cotree.grpo.distilling.path_outcomes import path_scores
from cotree.grpo.distilling.vocabulary import SharedVocabulary
from cotree.grpo.token_scores import TokenScores


def test_a_token_beyond_the_teachers_table_is_an_error():
    vocabulary = SharedVocabulary((b"a", None), (b"a", None), {1: 1})
    one = np.array([[7]], np.int32)
    scores = TokenScores(np.array([-0.1], np.float32), one, np.array([[-0.1]], np.float32))
    with pytest.raises(ValueError, match="token 7 is beyond the teacher's 2"):
        path_scores(scores, vocabulary, teacher_ids=[0], student_ids=[0])


def test_another_way_to_write_the_students_own_token_is_that_token():
    # The text is ")) ": the teacher's "))", but it also thinks of ")"; the student has ")x" too.
    teacher, student = (b"))", b")", b"x"), (b")", b")x", b"x")
    vocabulary = SharedVocabulary(teacher, student, {})
    named = np.array([[0, 1]], np.int32)
    shares = np.log(np.array([[0.6, 0.4]])).astype(np.float32)
    scores = TokenScores(shares[:, 0], named, shares)
    found = path_scores(scores, vocabulary, teacher_ids=[0], student_ids=[0, 0])
    (place,) = [vocabulary.exactly(b")")]
    events = dict(
        zip(
            zip(found.outcomes.first[0].tolist(), found.outcomes.end[0].tolist(), strict=True),
            np.exp(found.outcomes.logprobs[0, :-1]).tolist(),
            strict=True,
        )
    )
    # Both ways begin with the token ")" and not with ")x".
    assert events[place] == pytest.approx(1.0, abs=1e-6)
