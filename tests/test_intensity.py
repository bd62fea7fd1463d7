from pathlib import Path

import pytest

from eco2ai_hpc import intensity
from eco2ai_hpc.errors import BadInputError
from eco2ai_hpc.intensity import ember_2026

FIXTURES = Path(__file__).parent / "fixtures/intensity/ember_2026"


def test_the_shipped_set_is_whole():
    about, factors = intensity.read(intensity.DEFAULT)
    assert about.factor_set == "ember-2026"
    assert len(factors) == 213
    assert len({factor.grid_zone for factor in factors}) == 213


def test_namibia_is_not_missing():
    _, factors = ember_2026.read(FIXTURES / "good.csv")
    assert [factor.grid_zone for factor in factors] == ["FR", "NA"]


def test_an_empty_set_has_no_factors():
    assert ember_2026.read(FIXTURES / "empty.csv")[1] == []


@pytest.mark.parametrize(("file", "said"), [("null", ":2: "), ("absurd", "41440 g/kWh"), ("other-header", ":1: ")])
def test_what_is_no_factor_is_refused_with_file_and_line(file, said):
    with pytest.raises(BadInputError, match=said):
        ember_2026.read(FIXTURES / f"{file}.csv")


def test_an_unknown_zone_is_an_error_with_near_matches():
    with pytest.raises(BadInputError) as caught:
        intensity.insist_on_zone("FRA", {"FR", "DE", "GF"}, "ember-2026", "config.toml: region 'x'")
    assert "FR" in caught.value.hint
