"""scripts/bench_kernels.py: how errors and times are taken; whole sections take longer."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def arguments(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_kernels.py", *words])


def test_errors_are_relative_of_the_output_and_of_all_gradients_together():
    from bench_kernels import errors_of

    # |(0, 0.5)| / |(3, 4)| = 0.1. Of both gradients: sqrt(0.3^2 + 0.4^2) / sqrt(6^2 + 8^2) = 0.05.
    exact = [torch.tensor(values, dtype=torch.float64) for values in ([3.0, 4.0], [6.0], [8.0])]
    found = [torch.tensor([3.0, 4.5]), torch.tensor([6.3]), torch.tensor([7.6])]
    assert errors_of(found, exact) == pytest.approx([0.1, 0.05], rel=1e-6)
    assert errors_of(exact, exact) == [0.0, 0.0]


def test_the_share_of_a_gradient_in_the_error_is_that_of_its_size():
    from bench_kernels import errors_of

    output = torch.ones(1)
    small, large = torch.full((4,), 1e-3), torch.full((4,), 1.0)
    exact = [value.double() for value in (output, small, large)]
    # A small gradient that is wrong by its own size is a part of 1e-3 of both together.
    found = (output, torch.zeros(4), large)
    assert errors_of(found, exact)[1] == pytest.approx(1e-3, rel=1e-3)


def test_a_gradient_that_is_missing_is_an_error():
    from bench_kernels import errors_of

    exact = [torch.ones(2, dtype=torch.float64)] * 3
    with pytest.raises(ValueError, match="longer than"):
        errors_of(exact[:2], exact)


def test_errors_do_not_depend_on_the_precision_in_which_they_came():
    from bench_kernels import errors_of

    exact = [torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([4.0]).double()]
    for dtype in (torch.bfloat16, torch.float32, torch.float64):  # exact in all of them
        found = [torch.tensor([1.0, 1.5], dtype=dtype), torch.tensor([3.0], dtype=dtype)]
        # 0.5 / sqrt(5); 1 / 4.
        assert errors_of(found, exact) == pytest.approx([0.5 / 5**0.5, 0.25], rel=1e-12)


def square_and_gradient(x: Tensor, *, off: float, calls: list[str], name: str) -> Callable:
    def run() -> tuple[Tensor, ...]:
        calls.append(name)
        value = x.detach().requires_grad_()
        output = value.square().sum() * (1 + off)
        return output, *torch.autograd.grad(output, [value])

    return run


def test_paths_are_timed_in_turn_and_each_has_a_row(capsys: pytest.CaptureFixture[str]):
    from bench_kernels import measured

    x, calls = torch.tensor([1.0, -2.0]), []
    exact = (torch.tensor(5.0).double(), torch.tensor([2.0, -4.0]).double())
    paths = {
        name: square_and_gradient(x, off=off, calls=calls, name=name)
        for name, off in (("right", 0.0), ("ten per cent off", 0.1))
    }
    rows = measured("toy", "2 numbers", exact, paths, repetitions=3)
    assert [row.path for row in rows] == ["right", "ten per cent off"]
    assert (rows[0].output_error, rows[0].grad_error) == (0.0, 0.0)
    assert (rows[1].output_error, rows[1].grad_error) == pytest.approx((0.1, 0.1), rel=1e-5)
    for row in rows:
        assert (row.section, row.shape) == ("toy", "2 numbers")
        assert 0 < row.fastest <= row.milliseconds <= row.slowest
    # Once each for the errors, which warms it up, then interleaved: a slow minute hits them all.
    assert calls == ["right", "ten per cent off"] * 4
    printed = capsys.readouterr().out
    assert "toy: 2 numbers" in printed
    assert "ten per cent off" in printed
    assert "1.00e-01" in printed


def test_random_numbers_are_those_of_their_seed():
    from bench_kernels import random

    one = random(3, 4, device="cpu", seed=1)
    torch.rand(5)  # another's use of the global generator
    assert one.shape == (3, 4)
    assert torch.equal(one, random(3, 4, device="cpu", seed=1))
    assert not torch.equal(one, random(3, 4, device="cpu", seed=2))


def test_what_is_not_installed_is_named_and_left_out(capsys: pytest.CaptureFixture[str]):
    from bench_kernels import installed

    assert installed("torch")
    assert capsys.readouterr().out == ""
    assert not installed("no_such_peer")
    assert "no_such_peer is not installed; its rows are left out." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "pip install torchao liger-kernel"),
        (["--only", "attention"], "invalid choice: 'attention'"),
        (["--repetitions", "few"], "invalid int value: 'few'"),
    ],
    ids=str,
)
def test_help_names_the_peers_and_wrong_words_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
):
    import bench_kernels

    arguments(monkeypatch, *words)
    with pytest.raises(SystemExit):
        bench_kernels.main()
    assert said in "".join(capsys.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize("section", ["linear", "experts", "loss"])
def test_a_section_has_our_rows_within_the_errors_of_their_arithmetic(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    section: str,
):
    import bench_kernels

    figures, threads = tmp_path / "kernels.json", torch.get_num_threads()
    arguments(
        monkeypatch,
        *("--only", section, "--repetitions", "1", "--threads", str(threads)),
        *("--json", str(figures)),
    )
    bench_kernels.main()
    rows = {row["path"]: row for row in json.loads(figures.read_text())}
    assert {row["section"] for row in rows.values()} == {section}
    assert f"{section}: " in capsys.readouterr().out

    def error(path: str) -> float:
        return max(rows[path]["output_error"], rows[path]["grad_error"])

    if section == "loss":
        # All in float32; sums in another order.
        assert error("cotree token_logprobs") < 1e-4
        assert error("plain logits") < 1e-4
        return
    # Seven bits behind the leading one round by 2^-9 each, three by 2^-5; e4m3 is 16 times as far.
    plain, fp8 = {
        "linear": ("bfloat16", "cotree fp8_block"),
        "experts": ("cotree grouped", "cotree grouped fp8_block"),
    }[section]
    assert 0 < error(plain) < 0.01 < error(fp8) < 0.1
