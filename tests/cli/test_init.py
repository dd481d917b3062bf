"""``lowcomm-node init``: a manifest to edit, and never a lost file."""

from pathlib import Path

import pytest

from lowcomm_node.cli.app import main
from lowcomm_node.settings.canonical import run_id
from lowcomm_node.settings.load import read_manifest
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.presets import MODELS, OPTIMIZERS, with_model


def test_init_writes_a_manifest_that_check_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    """init, then config check: both print the same run id."""
    assert main(["init", "tiny.toml"]) == 0
    written = capsys.readouterr().out
    assert main(["config", "check", "tiny.toml"]) == 0
    checked = capsys.readouterr().out

    expected = run_id(Manifest(name="tiny"))
    assert f"run id {expected}" in written
    assert f"run id      {expected}" in checked
    assert "parameters  381,600" in checked
    assert "lowcomm-node join --manifest tiny.toml" in written


def test_the_name_can_be_chosen() -> None:
    """--name goes into the manifest and so into the run id."""
    assert main(["init", "x.toml", "--name", "The small run"]) == 0

    assert read_manifest(Path("x.toml")) == Manifest(name="The small run")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_comes_with_fitting_values(kind: str) -> None:
    """--optimizer writes its preset, so nobody has to know another optimizer's learning rate."""
    assert main(["init", "x.toml", "--optimizer", kind]) == 0

    assert read_manifest(Path("x.toml")) == Manifest(name="x", optimizer=OPTIMIZERS[kind])


def test_a_size_comes_with_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """--model writes the section; parameters and FLOPs are printed, by init and by check."""
    assert main(["init", "x.toml", "--model", "10m"]) == 0
    assert "9,835,840 parameters, 0.0742 GFLOP a token" in capsys.readouterr().out
    assert main(["config", "check", "x.toml"]) == 0
    assert "parameters  9,835,840, 0.0742 GFLOP a token" in capsys.readouterr().out

    assert read_manifest(Path("x.toml")) == with_model(Manifest(name="x"), MODELS["10m"])


def test_sizes_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file to write."""
    assert main(["init", "--list-models"]) == 0

    assert "1.3b  1,285,658,624" in capsys.readouterr().out


def test_a_model_of_transformers_is_written_from_its_config(capsys: pytest.CaptureFixture[str]) -> None:
    """A config.json as models are published with; what says how it was stored or run elsewhere stays behind."""
    Path("config.json").write_text(
        '{"model_type": "gpt2", "vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2, "_name_or_path": "x",'
        ' "torch_dtype": "float16", "architectures": ["GPT2LMHeadModel"]}'
    )

    assert main(["init", "x.toml", "--transformers", "config.json"]) == 0

    model = read_manifest(Path("x.toml")).model
    assert (model.kind, model.vocab_size) == ("transformers", 300)
    assert model.options == {"model_type": "gpt2", "vocab_size": 300, "n_embd": 16, "n_layer": 1, "n_head": 2}
    assert f"{model.parameters:,} parameters" in capsys.readouterr().out
    assert model.parameters == 300 * 16 + 1024 * 16 + (12 * 16 * 16 + 13 * 16) + 2 * 16


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot be read"), ("{", "not JSON"), ("[]", "not a JSON object"), ("{}", "model_type")]
)
def test_a_config_that_is_none_is_refused(text: str | None, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And no file is written."""
    if text is not None:
        Path("config.json").write_text(text)

    assert main(["init", "x.toml", "--transformers", "config.json"]) == 78

    assert words in capsys.readouterr().err
    assert not Path("x.toml").exists()


def test_an_unknown_optimizer_is_a_usage_error_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest is named, and no file is written."""
    assert main(["init", "x.toml", "--optimizer", "adam"]) == 2

    error = capsys.readouterr().err
    assert "mtdao" in error
    assert "did you mean adamw?" in error
    assert not Path("x.toml").exists()


def test_an_existing_file_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """A second init refuses and changes nothing; --force overwrites."""
    Path("my-run.toml").write_text("# precious\n")

    assert main(["init", "my-run.toml"]) == 73
    assert capsys.readouterr().err == (
        "error: my-run.toml exists already; choose another name, or overwrite it with --force\n"
    )
    assert Path("my-run.toml").read_text() == "# precious\n"
    assert main(["init", "my-run.toml", "--force"]) == 0
    assert read_manifest(Path("my-run.toml")) == Manifest()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["nowhere/x.toml"], 73, "nowhere/x.toml: the folder nowhere does not exist; create it first"),
        ([".", "--force", "--name", "x"], 73, ". is a folder; give the name of a file"),
        (["x.toml", "--name", ""], 78, '--name: name = "" is not allowed; allowed: a string of 1 to 100 characters'),
    ],
)
def test_what_cannot_be_written_is_said(
    arguments: list[str], status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its cure, and nothing is left behind."""
    before = sorted(Path().iterdir())

    assert main(["init", *arguments]) == status

    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert sorted(Path().iterdir()) == before


def test_a_task_begins_with_what_fits_it() -> None:
    """Its own values in place of the defaults, with the number of parameters it really has."""
    assert main(["init", "digits.toml", "--task", "vgg", "--optimizer", "adamw"]) == 0

    manifest = read_manifest(Path("digits.toml"))
    assert (manifest.model.kind, manifest.model.task, manifest.model.parameters) == ("task", "vgg", 99_370)
    assert (manifest.model.context_length, manifest.data.validation_ratio, manifest.training.batch_size) == (1, 0.2, 32)
    assert manifest.optimizer.kind == "adamw"


def test_a_path_with_spaces_is_quoted_in_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    """The printed lines can be pasted into a shell."""
    assert main(["init", "my run.toml"]) == 0

    assert "join --manifest 'my run.toml'" in capsys.readouterr().out
