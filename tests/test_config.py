import pytest

from eco2ai_hpc import config
from eco2ai_hpc.errors import ConfigError

EXAMPLE = """
cluster = "alpha"
[jobs]
source = "sacct"
[attribution]
rule = "reserve-static-use-dynamic"
[[region]]
name = "paris-dc1"
nodes = "alpha:n[001-400]"
zone = "FR"
time_zone = "Europe/Paris"
pue = 1.25
[[node_type]]
nodes = "alpha:n[001-400]"
idle_w = 110
tdp_w = 280
"""


def test_the_contracts_example_is_read():
    site = config.parse(EXAMPLE, "config.toml")
    assert site.cluster == "alpha"
    assert site.regions[0].pue == 1.25
    assert site.node_types[0].tdp_w == 280


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('clustre = "a"', "config.toml:1: unknown key 'clustre'", "cluster"),
        (
            'cluster = "a"\n[[region]]\nname = "x"\nnodes = "*"\nzone = "FR"\npeu = 1',
            "config.toml:6: unknown key 'peu'",
            "pue",
        ),
        ('[[region]]\nname = "x"\nnodes = "*"\nzone = "FR"\npue = 0.5', "pue = 0.5 is not a number from 1 to 10", None),
        ('[[region]]\nname = "x"\nnodes = "*"', "lacks zone", "zone"),
        ('[attribution]\nrule = "fair"', "rule = 'fair' is not known", "reserve-static-use-dynamic"),
        ("cluster = ", "config.toml: ", None),
        ("cluster = 7", "cluster = 7 is not a text", None),
    ],
)
def test_what_is_wrong_is_named_with_line_and_remedy(text, said, hint):
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "config.toml")
    assert said in str(caught.value)
    if hint:
        assert hint in (caught.value.hint or "")


def test_a_named_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="there is no configuration file"):
        config.load(str(tmp_path / "none.toml"))


def test_flag_beats_environment_beats_default(monkeypatch):
    monkeypatch.setenv("ECO2AI_HPC_LEDGER", "/from/environment")
    assert config.path_of("ledger", "/from/flag") == "/from/flag"
    assert config.path_of("ledger") == "/from/environment"
    monkeypatch.delenv("ECO2AI_HPC_LEDGER")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert config.path_of("ledger") == "/var/lib/eco2ai-hpc/ledger.duckdb"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert config.path_of("ledger") == "/state/eco2ai-hpc/ledger.duckdb"
