"""Tests for grpo/config_distill.py: settings that contradict each other or have no effect."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import (
    AdvantageSignal,
    AnyDistill,
    Divergence,
    DivergenceSignal,
    EngineTeacher,
    Keep,
    LogitsDistill,
    OnPolicyDistill,
    ResidentTeacher,
    SampledTraces,
    Selection,
    ServerTeacher,
    TopK,
    TracesDistill,
)
from cotree.grpo.config_file import dump_toml, load_pipeline

DISTILL: TypeAdapter[AnyDistill] = TypeAdapter(AnyDistill)
ENGINE = {"type": "engine", "path": "t"}
SERVER = {"type": "server", "url": "http://localhost:8000"}
RESIDENT = {"type": "resident", "path": "t"}
SAMPLED = {"type": "teacher"}
GENERATED = {"type": "generated"}
COURSE = {"num_steps": 1, "optimizer": {"learning_rate": 1e-3}}
TRAIN = {"num_steps": 1, "optimizer": {"learning_rate": 1e-4}}


def traces(**settings: object) -> Any:
    return DISTILL.validate_python({"type": "traces", "corpus": GENERATED, **COURSE, **settings})


def logits(**settings: object) -> Any:
    given = {"type": "logits", "corpus": GENERATED, "teacher": ENGINE, **COURSE, **settings}
    return DISTILL.validate_python({key: value for key, value in given.items() if value})


def on_policy(**settings: object) -> Any:
    return DISTILL.validate_python(
        {"type": "on_policy", "teacher": ENGINE, "train": TRAIN, **settings}
    )


def pipeline(**settings: object) -> Pipeline:
    given = {"output_dir": "unused", "model": {"type": "new"}, "task": {"type": "arithmetic"}}
    return Pipeline.model_validate({**given, **settings})


# --- the kinds -------------------------------------------------------------------------------


def test_the_type_chooses_the_kind_and_the_teacher():
    assert isinstance(traces(), TracesDistill)
    assert isinstance(logits(), LogitsDistill)
    assert isinstance(on_policy(), OnPolicyDistill)
    kinds = ((ENGINE, EngineTeacher), (SERVER, ServerTeacher), (RESIDENT, ResidentTeacher))
    for teacher, kind in kinds:
        assert isinstance(logits(teacher=teacher).teacher, kind)
        assert isinstance(on_policy(teacher=teacher).teacher, kind)
    with pytest.raises(ValidationError, match="'traces', 'logits', 'on_policy'"):
        DISTILL.validate_python({"type": "trace", **COURSE})


@pytest.mark.parametrize(
    "make",
    [
        lambda: traces(step=3),
        lambda: traces(divergence={}),
        lambda: traces(corpus={"type": "generated", "keep": {}}),
        lambda: logits(keep={"least": 3}),
        lambda: logits(divergence={"beta": 0.5}),
        lambda: logits(teacher={**RESIDENT, "replicas": 2}),
        lambda: on_policy(num_steps=3),
        lambda: on_policy(signal={"type": "advantage", "divergence": {}}),
        lambda: Selection.model_validate({"part": 0.5}),
        lambda: SampledTraces.model_validate({"type": "teacher", "keeps": {}}),
    ],
)
def test_unknown_keys_are_refused(make):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        make()


def test_a_corpus_that_the_teacher_writes_needs_a_teacher_that_samples():
    message = r'distill.corpus.type = "teacher" needs \[distill.teacher\]; add it'
    with pytest.raises(ValidationError, match=message):
        traces(corpus=SAMPLED)
    assert (
        traces(corpus=SAMPLED, teacher=SERVER).sampled_teacher
        == traces(corpus=SAMPLED, teacher=SERVER).teacher
    )
    with pytest.raises(ValidationError, match="'engine', 'server'"):
        traces(corpus=SAMPLED, teacher=RESIDENT)
    with pytest.raises(ValidationError, match=r"needs a teacher that samples; use type ="):
        logits(corpus=SAMPLED, teacher=RESIDENT)


@pytest.mark.parametrize("corpus", [GENERATED, {"type": "rows", "path": "x.jsonl"}])
def test_a_corpus_that_is_there_asks_no_teacher(corpus: dict[str, object]):
    says = rf'distill.corpus.type = "{corpus["type"]}" asks no teacher; drop'
    with pytest.raises(ValidationError, match=says):
        traces(corpus=corpus, teacher=ENGINE)
    assert traces(corpus=corpus).sampled_teacher is None


@pytest.mark.parametrize(
    ("settings"), [{"teacher": None}, {"store": "runs/a/distill/logits"}], ids=["none", "both"]
)
def test_logits_come_from_a_teacher_or_from_a_store(settings: dict[str, object]):
    with pytest.raises(ValidationError, match=r"distill.teacher and distill.store: give one"):
        logits(**settings)


def test_logits_of_a_store_or_of_a_resident_teacher_have_nobody_to_sample():
    assert logits(teacher=None, store="runs/a/distill/logits").sampled_teacher is None
    assert logits(teacher=RESIDENT).sampled_teacher is None
    assert logits().sampled_teacher == EngineTeacher.model_validate(ENGINE)


@pytest.mark.parametrize("settings", [{"teacher": None, "store": "x"}, {"teacher": RESIDENT}])
def test_what_is_kept_has_no_effect_where_nothing_is_asked(settings: dict[str, object]):
    with pytest.raises(ValidationError, match=r"distill.keep has no effect on a resident teacher"):
        logits(**settings, keep={"most": 8})
    assert logits(**settings).keep == TopK()


def test_what_a_signal_keeps_has_no_effect_on_a_resident_teacher():
    signal = {"type": "divergence", "keep": {"most": 8}}
    with pytest.raises(ValidationError, match=r"distill.signal.keep has no effect on a resident"):
        on_policy(teacher=RESIDENT, signal=signal)
    assert on_policy(signal=signal).signal.keep.most == 8


def test_the_signals_have_their_own_defaults():
    assert on_policy().signal == AdvantageSignal()
    signal = on_policy(teacher=RESIDENT, signal={"type": "divergence"}).signal
    assert isinstance(signal, DivergenceSignal)
    assert (signal.divergence.kind, signal.coef, signal.keep.tail_mass) == ("reverse_kl", 1.0, 0.0)
    assert on_policy().reward_coef == 0.0


# --- parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_a_mixture_has_no_effect_on_a_plain_divergence(kind: str):
    with pytest.raises(ValidationError, match=rf'mix = 0.5 has no effect with kind = "{kind}"'):
        Divergence.model_validate({"kind": kind, "mix": 0.5})


@pytest.mark.parametrize(
    ("settings", "mixture"),
    [
        ({"kind": "jsd"}, 0.5),
        ({"kind": "skewed_forward_kl"}, 0.1),
        ({"kind": "skewed_reverse_kl"}, 0.1),
        ({"kind": "jsd", "mix": 0.9}, 0.9),
        ({"kind": "skewed_reverse_kl", "mix": 0.3}, 0.3),
    ],
)
def test_a_mixture_that_is_left_out_is_the_papers(settings: dict[str, object], mixture: float):
    assert Divergence.model_validate(settings).mixture == mixture


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        (Divergence, {"kind": "jsd", "mix": 1.0}, "less than 1"),
        (Divergence, {"kind": "jsd", "mix": 0.0}, "greater than 0"),
        (Divergence, {"temperature": 0}, "greater than 0"),
        (Divergence, {"kind": "kl"}, "'forward_kl', 'reverse_kl', 'jsd'"),
        (TopK, {"most": 0}, "greater than or equal to 1"),
        (TopK, {"most": 256}, "less than or equal to 255"),
        (TopK, {"tail_mass": 1.0}, "less than 1"),
        (TopK, {"tail_mass": -0.1}, "greater than or equal to 0"),
        (Keep, {"pass_rate": (0.5, 0.2)}, r"pass_rate = \[0.5, 0.2\] must be \[low, high\]"),
        (Keep, {"pass_rate": (0.5, 1.2)}, r"pass_rate = \[0.5, 1.2\] must be"),
        (Keep, {"pass_rate": (-0.1, 1.0)}, r"pass_rate = \[-0.1, 1.0\] must be"),
        (Keep, {"min_tokens": 9, "max_tokens": 8}, "min_tokens = 9 is more than max_tokens = 8"),
        (Keep, {"per_problem": 0}, "greater than or equal to 1"),
        (SampledTraces, {**SAMPLED, "temperature": 0}, "temperature = 0 gives one completion"),
        (
            SampledTraces,
            {**SAMPLED, "temperature": 0, "samples": 1, "top_p": 0.9},
            "set samples = 1 and drop top_p",
        ),
        (Selection, {"by": "random", "entropy_weight": 0.6}, "entropy_weight has no effect with"),
        (Selection, {"share": 1.0}, "less than 1"),
        (Selection, {"share": 0.0}, "greater than 0"),
        (AdvantageSignal, {"coef": 0}, "greater than 0"),
        (DivergenceSignal, {"type": "divergence", "coef": 0}, "greater than 0"),
        (ResidentTeacher, {**RESIDENT, "dtype": "float16"}, "'float32' or 'bfloat16'"),
        (ResidentTeacher, {"type": "resident"}, "Field required"),
        (ServerTeacher, {"type": "server"}, "Field required"),
    ],
)
def test_settings_out_of_range_or_at_odds_are_refused(model, settings, says: str):
    with pytest.raises(ValidationError, match=says):
        model.model_validate(settings)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Keep, {"pass_rate": (0.0, 0.75), "min_tokens": 8, "max_tokens": 8}),
        (SampledTraces, {**SAMPLED, "temperature": 0, "samples": 1}),
        (Selection, {"by": "random", "share": 0.5}),
        (Selection, {"entropy_weight": 1.0}),
        (TopK, {"most": 255, "tail_mass": 0.0}),
    ],
)
def test_settings_that_go_together_are_accepted(model, settings):
    made = model.model_validate(settings)
    for name, value in settings.items():
        assert getattr(made, name) == value


@pytest.mark.parametrize(
    "distill",
    [
        traces(corpus=SAMPLED, teacher=ENGINE, selection={"share": 0.5}),
        logits(teacher=SERVER, divergence={"kind": "jsd", "mix": 0.3}, keep={"most": 4}),
        logits(teacher=None, store="x"),
        logits(teacher=RESIDENT),
        on_policy(teacher=RESIDENT, signal={"type": "divergence"}),
        on_policy(signal={"type": "divergence", "keep": {"most": 4}}),
    ],
    ids=lambda distill: distill.type,
)
def test_the_saved_configuration_of_a_run_can_be_loaded_again(tmp_path: Path, distill):
    given = pipeline(
        model={"type": "pretrained", "path": "x"}, distill=distill.model_dump(exclude_unset=True)
    )
    assert given.distill == distill
    saved = tmp_path / "resolved_config.toml"
    saved.write_text(dump_toml(given))
    assert load_pipeline(saved, []) == given


def test_a_tempered_student_is_not_compared_token_by_token():
    hot = {"num_steps": 1, "optimizer": {"learning_rate": 1e-3}, "rollout": {"temperature": 0.7}}
    with pytest.raises(ValidationError, match=r"temperature = 0.7 would compare a tempered"):
        on_policy(train=hot)
    assert on_policy(train=hot, signal={"type": "divergence"}).train.rollout.temperature == 0.7


def test_a_resident_teacher_that_is_compared_has_no_prompt_of_its_own():
    prompted = RESIDENT | {"prompt": {"template": "Q: {question}"}}
    for make in (
        lambda: logits(teacher=prompted),
        lambda: on_policy(teacher=prompted, signal={"type": "divergence"}),
    ):
        with pytest.raises(ValidationError, match=r"teacher\.prompt has no effect on a resident"):
            make()
    # Its word about tokens is asked for with its own prompt.
    assert on_policy(teacher=prompted).teacher.prompt.template == "Q: {question}"


# --- in a pipeline ---------------------------------------------------------------------------


def sft() -> dict[str, object]:
    return {"traces": GENERATED, **COURSE}


@pytest.mark.parametrize("model", [{"type": "new"}, {"type": "new_deepseek_v3"}])
def test_a_new_model_may_start_with_texts_but_not_on_its_own(model: dict[str, object]):
    for distill in (traces(), logits(), logits(teacher=RESIDENT)):
        made = pipeline(model=model, distill=distill.model_dump(exclude_unset=True))
        assert made.distill == distill
    own = on_policy().model_dump(exclude_unset=True)
    message = rf'model.type = "{model["type"]}" starts from random weights; add an \[sft\]'
    with pytest.raises(ValidationError, match=message):
        pipeline(model=model, distill=own)
    with pytest.raises(ValidationError, match=message):
        pipeline(model=model)
    assert pipeline(model=model, distill=own, sft=sft()).distill == on_policy()


def test_a_pretrained_model_may_start_on_its_own():
    made = pipeline(
        model={"type": "pretrained", "path": "x"},
        distill=on_policy().model_dump(exclude_unset=True),
    )
    assert made.distill == on_policy()
