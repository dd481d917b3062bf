"""From the command line's words to trials."""

from pathlib import Path

import pytest

from lowcomm_node.bench.methods import METHODS, Family
from lowcomm_node.bench.plan import Request, plan_trials
from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.manifest import Manifest
from lowcomm_node.settings.template import manifest_template


def test_the_default_is_a_selection_with_one_seed() -> None:
    """Each default method once, with the small model."""
    trials = plan_trials(Request())

    assert [trial.label for trial in trials] == [name for name, method in METHODS.items() if method.is_default]
    assert {trial.manifest.training.total_steps for trial in trials} == {800}
    assert {trial.replicas for trial in trials} == {8}


def test_a_task_has_its_own_base() -> None:
    """What fits it, its options, and the number of parameters that these make; options alone are of nothing."""
    (trial,) = plan_trials(Request(only=["ddp"], task="vit", options=["width=32", "augment=true", "dataset=digits"]))

    manifest = trial.manifest
    assert manifest.model.options == {"width": 32, "augment": True, "dataset": "digits"}
    assert (manifest.training.batch_size, manifest.data.validation_ratio) == (32, 0.2)
    assert manifest.model.parameters < 100_000
    with pytest.raises(ConfigError, match="unknown key breadth"):
        plan_trials(Request(task="vit", options=["breadth=3"]))
    with pytest.raises(ConfigError, match="write it as --option key=value"):
        plan_trials(Request(task="vit", options=["width"]))
    with pytest.raises(ConfigError, match="name one with --task"):
        plan_trials(Request(options=["width=3"]))


def test_a_grid_is_multiplied_out() -> None:
    """Methods x combinations x seeds, each labelled by what is special about it."""
    request = Request(only=["ddp", "local"], seeds=2, grid=["optimizer.lr=0.01, 0.02", "training.batch_size=2,4"])

    trials = plan_trials(request)

    assert len(trials) == 2 * 2 * 2 * 2
    assert len({trial.key for trial in trials}) == len(trials)
    assert trials[0].label == "ddp lr=0.01 batch_size=2"
    assert (trials[-1].manifest.optimizer.lr, trials[-1].manifest.training.batch_size, trials[-1].seed) == (0.02, 4, 1)


def test_set_adds_one_run_of_meetings() -> None:
    """All --set together are one more method, beside those chosen; the grid holds for it too."""
    sets = ["meeting.dtype=int4", "meeting.params_every_steps=2"]

    trials = plan_trials(Request(only=["local"], sets=sets, grid=["optimizer.lr=0.01"]))

    assert [trial.label for trial in trials] == ["local lr=0.01", "meet dtype=int4 params_every_steps=2 lr=0.01"]
    added = trials[1]
    assert added.family is Family.MEETINGS
    assert (added.manifest.meeting.dtype, added.manifest.meeting.params_every_steps) == ("int4", 2)
    assert added.manifest.optimizer.lr == 0.01


def test_a_manifest_lends_its_method_and_not_its_size(tmp_path: Path) -> None:
    """Methods are compared on one model and schedule, so only optimizer, outer and meeting count."""
    file = tmp_path / "mine.toml"
    text = manifest_template(Manifest())
    file.write_text(
        text.replace("params_every_steps = 5", "params_every_steps = 7").replace("d_model = 96", "d_model = 32")
    )

    (trial,) = plan_trials(Request(only=["local"], manifest=file))[1:]

    assert trial.label == "meet mine"
    assert trial.manifest.meeting.params_every_steps == 7
    assert trial.manifest.model.d_model == 64


def test_a_grid_takes_the_keys_of_ab_training() -> None:
    """They change the methods of that family; to the others they are one and the same run."""
    trials = plan_trials(Request(only=["ddp", "ab-training-learned"], grid=["ab_training.cutoff=0.1,0.3"]))

    assert [trial.label for trial in trials[2:]] == ["ab-training-learned cutoff=0.1", "ab-training-learned cutoff=0.3"]
    assert [trial.ab_training.cutoff for trial in trials[2:]] == [0.1, 0.3]
    assert {trial.ab_training.join for trial in trials[2:]} == {"only-learned"}
    assert trials[0].key == trials[1].key
    assert trials[2].key != trials[3].key


def test_of_a_swarm_that_trains_so_they_are_the_manifest_s() -> None:
    """One grid over the reference and our form of it: each takes the keys where it looks for them."""
    request = Request(only=["ab-training"], sets=["outer.method=ab"], grid=["ab_training.cutoff=0.1,0.3"])

    reference, other, swarm, *_ = plan_trials(request)

    assert (reference.ab_training.cutoff, other.ab_training.cutoff) == (0.1, 0.3)
    assert swarm.manifest.ab_training.cutoff == 0.1
    assert reference.manifest.ab_training.cutoff == 0.15


def test_a_short_schedule_still_warms_up() -> None:
    """--steps 20 is possible although the default warm-up is longer."""
    training = plan_trials(Request(steps=20))[0].manifest.training

    assert (training.total_steps, training.warmup_steps) == (20, 5)
    assert plan_trials(Request(steps=4000))[0].manifest.training.warmup_steps == 50


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(only=["dilocco-h50"]), "did you mean diloco-h50"),
        (Request(sets=["meeting.dtyp=int4"]), "did you mean meeting.dtype"),
        (Request(sets=["meeting.dtype"]), "section.key=value"),
        (Request(grid=["seed=1,2"]), "--seeds"),
        (Request(grid=["optimizer.lr=fast"]), "optimizer.lr"),
        (Request(only=["ab-training"], grid=["ab_training.cutof=0.1"]), "did you mean ab_training.cutoff"),
        (Request(only=["ab-training"], grid=["ab_training.join=mean"]), "only-learned"),
        (Request(only=["ab-training"], steps=20, grid=["ab_training.epochs=30"]), "ab_training.epochs = 30"),
        (Request(only=["ab-training"], grid=["ab_training.warm_up_ratio=0.99"]), "rebound_ratio"),
        (Request(only=["ab-training-g4"], replicas=4), "group_size = 4"),
        (Request(only=["ab-training"], grid=["optimizer.kind=muon"]), "adamw, adopt"),
        (Request(sets=["ab_training.cutoff=0.1"]), "unless outer.method"),
        (Request(steps=20, sets=["outer.method=ab", "ab_training.epochs=30"]), "ab_training.epochs = 30"),
        (Request(seeds=0), "--seeds 0"),
        (Request(replicas=1), "--replicas 1"),
        (Request(replicas=0), "--replicas 0"),
        (Request(steps=0), "--steps 0"),
        (Request(delay_steps=-1.0), "--delay"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(request_: Request, words: str) -> None:
    """With the option's name and what it takes."""
    with pytest.raises(ConfigError, match=words):
        plan_trials(request_)
