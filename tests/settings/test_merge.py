"""settings.merge: four sources in order, each value with its origin."""

import pytest

from lowcomm_node.errors import ConfigError
from lowcomm_node.settings.merge import Override, TomlDocument, merge, parse_set, values_of
from lowcomm_node.settings.node import LogSettings, NodeSettings

FILE = TomlDocument(path="/x.toml", table={"network": {"grpc_port": 1}})
VARIABLE = {"LOWCOMM_NETWORK__GRPC_PORT": "2"}
FLAG = parse_set("network.grpc_port=3")


def refusal(
    toml: TomlDocument | None = None, environ: dict[str, str] | None = None, overrides: tuple[Override, ...] = ()
) -> str:
    with pytest.raises(ConfigError) as caught:
        merge(NodeSettings(), toml, environ or {}, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("toml", "environ", "overrides", "port", "origin"),
    [
        (None, {}, (), 0, "default"),
        (FILE, {}, (), 1, "file /x.toml"),
        (FILE, VARIABLE, (), 2, "environment LOWCOMM_NETWORK__GRPC_PORT"),
        (FILE, VARIABLE, (FLAG,), 3, "flag --set network.grpc_port"),
        (None, {}, (FLAG,), 3, "flag --set network.grpc_port"),
    ],
)
def test_the_strongest_source_wins_and_is_named(
    toml: TomlDocument | None, environ: dict[str, str], overrides: tuple[Override, ...], port: int, origin: str
) -> None:
    """Defaults < file < environment < flags."""
    settings, origins = merge(NodeSettings(), toml, environ, overrides)

    assert settings.network.grpc_port == port
    assert origins["network.grpc_port"] == origin
    assert origins["network.dht_port"] == "default"


def test_later_flags_beat_earlier_ones() -> None:
    """As in any command line; a command's own flag is an override with its own name."""
    own = Override(dotted="metrics.port", value=7, origin="flag --metrics-port")

    settings, origins = merge(NodeSettings(), None, {}, (parse_set("metrics.port=6"), own))

    assert settings.metrics.port == 7
    assert origins["metrics.port"] == "flag --metrics-port"


def test_given_defaults_are_the_base() -> None:
    """The caller's defaults hold where nothing else is said."""
    settings, _ = merge(NodeSettings(log=LogSettings(level="error")), None, {}, ())

    assert settings.log.level == "error"


def test_origins_name_every_key() -> None:
    """``config show --origin`` has a line for each value."""
    settings, origins = merge(NodeSettings(), None, {}, ())

    assert origins.keys() == values_of(settings).keys()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("network.host=0.0.0.0", "network.host", "0.0.0.0"),
        ('network.host="0.0.0.0"', "network.host", "0.0.0.0"),
        ("device.name=0", "device.name", "0"),
        ("network.host=a\nb = 1", "network.host", None),
        ("network.record_ttl_s=30", "network.record_ttl_s", 30.0),
        ("network.record_ttl_s = 3e1", "network.record_ttl_s", 30.0),
        ("network.grpc_port=7_001", "network.grpc_port", 7001),
        ("network.grpc_port=7001x", "network.grpc_port", None),
        ("network.grpc_port=", "network.grpc_port", None),
        ("data.paths=/books", "data.paths", ("/books",)),
        ("data.paths=", "data.paths", ()),
        ('data.paths=["/a", "/b c"]', "data.paths", ("/a", "/b c")),
        ("data.paths=2024", "data.paths", ("2024",)),
        ("data.paths=[1]", "data.paths", None),
        ("state_dir=/srv/a=b", "state_dir", "/srv/a=b"),
    ],
)
def test_text_is_read_as_the_key_asks(text: str, key: str, value: object) -> None:
    """TOML where it fits, else the text itself; None stands for a refusal."""
    if value is None:
        assert key in refusal(overrides=(parse_set(text),))
    else:
        assert values_of(merge(NodeSettings(), None, {}, (parse_set(text),))[0])[key] == value


def test_variables_and_flags_are_read_alike() -> None:
    """What works with --set works in the environment."""
    settings, _ = merge(NodeSettings(), None, {"LOWCOMM_DATA__PATHS": '["a"]', "LOWCOMM_STATE_DIR": "/s"}, ())

    assert settings.data.paths == ("a",)
    assert settings.state_dir == "/s"


def test_a_mistyped_variable_is_an_error() -> None:
    """A variable with our prefix that nobody reads would be a silent mistake."""
    assert refusal(environ={"LOWCOMM_NETWORK__GRPC_PROT": "1"}) == (
        "environment: unknown variable LOWCOMM_NETWORK__GRPC_PROT; did you mean LOWCOMM_NETWORK__GRPC_PORT?"
    )


def test_other_variables_are_left_alone() -> None:
    """Those of the command line, and those without our prefix."""
    environ = {"LOWCOMM_PEERS": "/ip4/1.2.3.4", "LOWCOMM_DEBUG": "1", "PATH": "x"}

    assert merge(NodeSettings(), None, environ, ())[0] == NodeSettings()


def test_a_refused_value_names_its_source() -> None:
    """The same mistake, told apart by where it was made."""
    allowed = "network.grpc_port = 70000 is not allowed; allowed: a whole number from 0 to 65535"

    assert refusal(environ={"LOWCOMM_NETWORK__GRPC_PORT": "70000"}) == (
        f"environment LOWCOMM_NETWORK__GRPC_PORT: {allowed}"
    )
    assert refusal(overrides=(parse_set("network.grpc_port=70000"),)) == f"flag --set network.grpc_port: {allowed}"
    assert refusal(TomlDocument(path="/x.toml", table={"network": {"grpc_port": 70000}})) == f"/x.toml: {allowed}"


def test_a_bad_value_is_reported_even_when_a_stronger_source_replaces_it() -> None:
    """Otherwise the file would break the day the flag is left out."""
    bad = TomlDocument(path="/x.toml", table={"network": {"grpc_port": -1}})

    assert refusal(bad, overrides=(FLAG,)).startswith("/x.toml: network.grpc_port = -1")


def test_problems_of_all_sources_are_listed_together() -> None:
    """File, environment and flags in one message."""
    text = refusal(
        TomlDocument(path="/x.toml", table={"log": {"levle": "info"}}),
        {"LOWCOMM_LOG__FORMAT": "xml"},
        (parse_set("network.gpc_port=1"),),
    )

    assert text.startswith("3 problems:")
    assert "/x.toml: unknown key log.levle; did you mean log.level?" in text
    assert (
        'environment LOWCOMM_LOG__FORMAT: log.format = "xml" is not allowed; allowed: "auto", "text", "logfmt", "json"'
        in text
    )
    assert "flag --set network.gpc_port: unknown key network.gpc_port; did you mean network.grpc_port?" in text


@pytest.mark.parametrize("text", ["network.grpc_port", "=3", ""])
def test_a_set_without_key_or_value_says_how_to_write_it(text: str) -> None:
    """``--set`` wants section.key=value."""
    with pytest.raises(ConfigError, match=r"write it as --set section\.key=value"):
        parse_set(text)


def test_a_section_cannot_be_set() -> None:
    """``--set network=3`` is not a way to replace a table."""
    assert "must be a table" in refusal(overrides=(parse_set("network=3"),))
