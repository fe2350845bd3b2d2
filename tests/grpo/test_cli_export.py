"""Tests for grpo/cli_export.py."""

import json
from pathlib import Path

import pytest
import tiny_experts

from cotree.grpo.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("experts") / "model"
    tiny_experts.write_qwen3_moe(folder)
    return str(folder)


def config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (["--format", "fp8-block"], "fp8"),
        (["--format", "fp8-block", "--scales", "float32"], "fp8"),
        (["--format", "int8"], "compressed-tensors"),
    ],
)
def test_export_writes_the_format(
    model: str, tmp_path: Path, options: list[str], method: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["export", model, str(tmp_path / "out"), *options]) == 0
    quantization = config(tmp_path / "out")["quantization_config"]
    assert quantization["quant_method"] == method
    assert quantization.get("scale_fmt") == ("ue8m0" if options[1:] == ["fp8-block"] else None)
    said = capsys.readouterr()
    assert "32 weights in" in said.out
    assert ("do not divide into 128x128 blocks" in said.err) == (method == "fp8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "MODEL", "OUT", "--format", "int8", "--scales", "pow2"], "no effect on int8"),
        (["export", "MODEL", "MODEL", "--format", "int8"], "exists; remove it"),
        (["export", "OUT", "OUT", "--format", "int8"], "so it is no checkpoint"),
        (["experts", "add", "MODEL", "OUT"], "either --copies N or --to E"),
        (["experts", "add", "MODEL", "OUT", "--copies", "2", "--to", "8"], "either --copies N"),
        (["experts", "add", "MODEL", "OUT", "--copies", "2", "--dormant"], "no effect on --copies"),
        (["experts", "add", "MODEL", "OUT", "--to", "6", "--dormant"], "routers with a bias"),
        (["experts", "add", "MODEL", "OUT", "--to", "6", "--loads", "OUT"], "cannot read loads"),
        (["experts", "remove", "MODEL", "OUT"], "give --ids IDS, or --loads FILE and --count"),
        (["experts", "remove", "MODEL", "OUT", "--count", "1"], "give --ids IDS, or"),
        (["experts", "remove", "MODEL", "OUT", "--ids", "1=x"], "not of the form"),
        (["experts", "remove", "MODEL", "OUT", "--ids", "7=1"], "no layer 7 with experts"),
        (["experts", "remove", "MODEL", "OUT", "--ids", "1=1"], "each must lose as many"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_do(
    model: str,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    words = {"MODEL": model, "OUT": str(tmp_path / "out")}
    assert main([words.get(word, word) for word in arguments]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_experts_are_added_and_the_tie_of_exact_copies_is_pointed_out(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["experts", "add", model, str(tmp_path / "b"), "--copies", "2"]) == 0
    said = capsys.readouterr()
    assert "4 experts a layer became 8, of which a token uses 4" in said.out
    assert "--noise 0.01 breaks the tie" in said.err
    assert config(tmp_path / "b")["num_experts_per_tok"] == 4

    noisy = ["experts", "add", model, str(tmp_path / "c"), "--to", "6", "--noise", "0.01"]
    assert main(noisy) == 0
    assert "tie" not in capsys.readouterr().err


def test_the_busiest_are_copied_and_the_least_loaded_removed(model: str, tmp_path: Path):
    loads = {f"model.layers.{layer}.mlp.gate": [4 + layer, 9, 1, 2] for layer in (0, 1)}
    file = tmp_path / "loads.json"
    file.write_text(json.dumps(loads))
    by_load = ["--loads", str(file)]

    assert main(["experts", "add", model, str(tmp_path / "b"), "--to", "6", *by_load]) == 0
    record = json.loads((tmp_path / "b" / "experts.json").read_text())
    assert record["sources"]["model.layers.1.mlp"] == [0, 1, 2, 3, 1, 0]
    assert record["copies"]["model.layers.1.mlp"] == [4, 5]

    out = str(tmp_path / "c")
    assert main(["experts", "remove", model, out, *by_load, "--count", "2"]) == 0
    record = json.loads((tmp_path / "c" / "experts.json").read_text())
    assert record["sources"]["model.layers.1.mlp"] == [0, 1]


def test_ids_are_of_every_layer_or_of_one(model: str, tmp_path: Path):
    given = ["--ids", "3", "--ids", "0=1", "--ids", "1=2"]
    assert main(["experts", "remove", model, str(tmp_path / "b"), *given]) == 0
    record = json.loads((tmp_path / "b" / "experts.json").read_text())
    assert record["sources"] == {"model.layers.0.mlp": [0, 2], "model.layers.1.mlp": [0, 1]}


@pytest.mark.parametrize("text", ["[1]", '{"gate": 3}', '{"gate": ["a"]}'])
def test_loads_of_another_form_are_refused(
    model: str, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "loads.json").write_text(text)
    loads = ["--loads", str(tmp_path / "loads.json"), "--count", "1"]
    assert main(["experts", "remove", model, str(tmp_path / "b"), *loads]) == 2
    assert "a list of numbers for each router" in capsys.readouterr().err
