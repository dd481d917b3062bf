"""Every file that is there to be copied is read by whoever will read it: the settings code, systemd, Kubernetes, a shell."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from lowcomm_node.cli.commands.join import add_arguments
from lowcomm_node.cli.exit_codes import ExitCode
from lowcomm_node.cli.parser import Parser
from lowcomm_node.settings.load import read_manifest, read_toml
from lowcomm_node.settings.merge import OTHER_VARIABLES, TomlDocument, merge
from lowcomm_node.settings.node import NodeSettings
from tests.deploy.tools import REPOSITORY, in_environment, systemd_analyze

DEPLOY = REPOSITORY / "deploy"
UNIT = DEPLOY / "systemd/lowcomm-node.service"
KUBERNETES = DEPLOY / "kubernetes"
TOML = sorted(DEPLOY.rglob("*.toml"))
SCRIPTS = [
    path for path in sorted(REPOSITORY.rglob("*.sh")) if ".venv" not in path.parts and ".tools" not in path.parts
]


def assignments(path: Path) -> dict[str, str]:
    """The variables of an environment file, those that are commented out as examples included."""
    found = re.findall(r"^#?([A-Z][A-Z_0-9]*)=(.*)$", path.read_text(), re.MULTILINE)
    assert found
    return dict(found)


def settings_of(environ: dict[str, str]) -> NodeSettings:
    return merge(NodeSettings(), None, environ, [])[0]


@pytest.mark.parametrize("path", TOML, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_each_toml_file_is_a_manifest_or_settings(path: Path) -> None:
    """Strictly: an unknown key or a value that is refused is an error, and no file is neither."""
    table = read_toml(path)
    if "name" in table:
        read_manifest(path)
    else:
        merge(NodeSettings(), TomlDocument(path=str(path), table=table), {}, [])


def test_the_units_variables_are_known() -> None:
    """Its example has no variable that the node would refuse, and examples of JOIN_OPTIONS that 'join' takes."""
    variables = assignments(DEPLOY / "systemd/node.env")
    options = variables.pop("JOIN_OPTIONS")
    parser = Parser(prog="join")
    add_arguments(parser)

    assert parser.parse_args(options.split()).run
    assert set(variables) <= set(OTHER_VARIABLES)
    assert settings_of(variables) == NodeSettings()


def test_the_unit_knows_the_exit_statuses() -> None:
    """What a person has to see to is not tried again; what a signal has ended has not failed."""
    lines = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))

    assert {int(word) for word in lines["RestartPreventExitStatus"].split()} == {
        ExitCode.USAGE,
        ExitCode.NO_PERMISSION,
        ExitCode.CONFIG,
    }
    assert {int(word) for word in lines["SuccessExitStatus"].split()} == {ExitCode.INTERRUPTED, ExitCode.TERMINATED}


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """No directive that it does not know; only that the program is not installed here is forgiven."""
    program = tmp_path / "lowcomm-node"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/lowcomm-node/current/bin/lowcomm-node", str(program)))

    done = subprocess.run(
        [systemd_analyze(), "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_units_exposure_is_below_two() -> None:
    """systemd's own score, where 10 is a service without any sandbox."""
    done = subprocess.run(
        [systemd_analyze(), "security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_kubernetes_takes_the_manifests() -> None:
    """The schemas of its objects, strictly: no unknown field, nothing missing."""
    checked = []
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] in ("Kustomization", "PodMonitor"):
                continue  # not Kubernetes' own
            kubernetes_validate.validate(document, "1.32", strict=True)
            checked.append(document["kind"])

    assert sorted(checked) == ["Namespace", "Service", "StatefulSet"]


def test_kustomize_builds_what_is_written() -> None:
    """Every file is reached, and the names fit together. Skipped where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: kustomize is not tried")
    built = {}
    for folder in (KUBERNETES, KUBERNETES / "monitoring"):
        done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
        built.update({document["kind"]: document for document in yaml.safe_load_all(done.stdout)})

    assert set(built) == {"Namespace", "ConfigMap", "Service", "StatefulSet", "PodMonitor"}
    pod = built["StatefulSet"]["spec"]["template"]
    assert pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] == built["ConfigMap"]["metadata"]["name"]
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {entry["port"] for entry in built["PodMonitor"]["spec"]["podMetricsEndpoints"]} <= ports
    assert {entry["name"] for entry in built["Service"]["spec"]["ports"]} == ports


def test_a_pod_has_sound_settings_and_no_variables_but_its_own() -> None:
    """Variables of the pod are settings; those that Kubernetes adds for services would not be, so it adds none."""
    pod = stateful_set()["spec"]["template"]["spec"]
    container = pod["containers"][0]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}

    settings = settings_of({**assignments(KUBERNETES / "node.env"), **environ})

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {
        "dht": settings.network.dht_port,
        "grpc": settings.network.grpc_port,
        "http": settings.metrics.port,
    }
    assert settings.metrics.host == settings.network.host == "0.0.0.0"
    assert pod["enableServiceLinks"] is False
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert any(settings.state_dir.startswith(f"{path}/") for path in mounts)


def stateful_set() -> Any:
    return yaml.safe_load((KUBERNETES / "statefulset.yaml").read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shellcheck_finds_nothing(path: Path) -> None:
    """In any shell script of the repository."""
    done = subprocess.run([in_environment("shellcheck"), str(path)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docker").glob("*Dockerfile*")), ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    """In any Dockerfile."""
    done = subprocess.run([in_environment("hadolint"), str(path)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


BOOTSTRAP = DEPLOY / "bootstrap/bootstrap.sh"


def bootstrap(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        [str(BOOTSTRAP), *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environ
    )


@pytest.mark.skipif(sys.platform != "linux", reason="bootstrap.sh is for Linux")
def test_a_dry_run_of_the_bootstrap_changes_nothing_and_writes_sound_settings(tmp_path: Path) -> None:
    """What it would write is what the settings code takes, with the values that were given."""
    options = (
        "--data",
        "/srv/text/**/*.txt",
        "--data",
        "/srv/more",
        "--announce",
        "my.host.example",
        "--grpc-port",
        "7001",
    )
    done = bootstrap(
        "--dry-run", "--package", ".", "--peers", "/ip4/1.2.3.4/tcp/4001/p2p/x", *options, "--python", sys.executable
    )

    assert done.returncode == 0, done.stderr
    text = done.stdout.split("config.toml (mode 644):\n")[1].split("would write")[0]
    path = tmp_path / "config.toml"
    path.write_text(re.sub(r"^    ", "", text, flags=re.MULTILINE))
    settings, _ = merge(NodeSettings(), TomlDocument(path=str(path), table=read_toml(path)), {}, [])
    assert settings.data.paths == ("/srv/text/**/*.txt", "/srv/more")
    assert (settings.network.announce_host, settings.network.grpc_port) == ("my.host.example", 7001)
    assert settings.state_dir == "/var/lib/lowcomm-node"
    assert "LOWCOMM_PEERS=/ip4/1.2.3.4/tcp/4001/p2p/x" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="bootstrap.sh is for Linux")
def test_the_bootstrap_installs_the_versions_that_come_with_the_source(tmp_path: Path) -> None:
    """As the image does; not with another Python than theirs, nor in place of the machine's own packages, nor with a wheel."""
    told = "packages of others: the versions in ./constraints.txt"
    given = ("--dry-run", "--peers", "/ip4/1.2.3.4/tcp/4001/p2p/x", "--python", sys.executable, "--package")

    assert (told in bootstrap(*given, ".").stdout) == (sys.version_info[:2] == (3, 11))
    assert told not in bootstrap(*given, ".", "--system-packages").stdout
    assert "packages of others" not in bootstrap(*given, str(tmp_path / "lowcomm_node.whl")).stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "what shall be installed?"),
        (("--package",), "--package takes a value"),
        (("--package", ".", "--pears", "x"), "unknown option --pears"),
        (("--package", ".", "--manifest", "/nowhere.toml"), "there is no such file"),
        (("--package", ".", "--peers", "x", "--grpc-port", "high"), "ports and seconds are numbers"),
        (("--package", ".", "--peers", "x", "--data", '"'), "must not hold quotes"),
        (("--package", ".", "--peers", "x", "--dry-run", "--python", "python9"), "there is no python9"),
    ],
)
def test_the_bootstrap_says_what_is_wrong(arguments: tuple[str, ...], sentence: str) -> None:
    """In one line, with status 1, before anything is changed."""
    done = bootstrap(*arguments)

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr


def test_cloud_init_calls_the_bootstrap_as_it_is() -> None:
    """Its user data is YAML with the head that cloud-init asks for, and every option in it exists."""
    text = (DEPLOY / "bootstrap/cloud-init.yaml").read_text()
    data = yaml.safe_load(text)
    usage = bootstrap("--help").stdout

    assert text.startswith("#cloud-config\n")
    assert set(data) == {"packages", "write_files", "runcmd"}
    call = data["runcmd"][-1]
    assert call[0].endswith(f"/{BOOTSTRAP.relative_to(REPOSITORY)}")
    options = [word for word in call if word.startswith("--")]
    assert options
    assert all(f"  {option} " in usage for option in options)
    assert json.dumps(data)
