"""Figures are rounded for the eye without lying to it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2ai_hpc.report import wording

KWH = 3_600_000_000_000
UNITS = {"GWh": 1e9, "MWh": 1e6, "kWh": 1e3, "Wh": 1.0, "mWh": 1e-3, "µWh": 1e-6}


@pytest.mark.parametrize(
    ("energy_uj", "words"),
    [
        (None, "-"),
        (0, "0 Wh"),
        (1, "<0.1 µWh"),
        (8_125_000, "2.26 mWh"),
        (KWH // 1_000_000, "1.00 mWh"),
        (KWH // 1000, "1.00 Wh"),
        (412 * KWH // 1000, "0.412 kWh"),
        (-412 * KWH // 1000, "-0.412 kWh"),
        (17 * KWH, "17.0 kWh"),
        (1234 * KWH, "1,234 kWh"),
        (9_999 * KWH, "9,999 kWh"),
        (12_345 * KWH, "12.3 MWh"),
        (12_345_678 * KWH, "12.3 GWh"),
    ],
)
def test_energy_takes_the_unit_that_suits_it(energy_uj, words):
    assert wording.energy(energy_uj) == words


@pytest.mark.parametrize(
    ("mass_kg", "words"),
    [(None, "-"), (0.0, "0 g"), (1.1691e-07, "0.117 mg"), (0.021, "21.0 g"), (1.2345, "1.23 kg"), (23_456.0, "23.5 t")],
)
def test_mass_takes_the_unit_that_suits_it(mass_kg, words):
    assert wording.mass(mass_kg) == words


@given(st.integers(min_value=-(2**62), max_value=2**62))
def test_energy_in_words_is_within_half_a_percent(energy_uj):
    words = wording.energy(energy_uj)
    if "<" in words or energy_uj == 0:
        assert abs(energy_uj) < 360
        return
    number, unit = words.replace(",", "").split()
    assert float(number) * UNITS[unit] * KWH / 1000 == pytest.approx(energy_uj, rel=0.0051)


@given(st.floats(min_value=0, max_value=1))
def test_only_all_is_100_percent_and_only_nothing_is_0(ratio):
    words = wording.percent(ratio)
    assert (words == "100 %") == (ratio == 1)
    assert (words == "0 %") == (ratio == 0)
    assert not re.match(r"(0\.0|100\.0) %", words)


def test_a_negative_share_keeps_its_sign():
    assert wording.percent(-0.042) == "-4.2 %"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0, "0 s"),
        (0.25, "0.25 s"),
        (42, "42 s"),
        (3600, "1 h"),
        (3512.417, "58 min 32 s"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds, words):
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (None, None, "all time"),
        ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "2026-11"),
        ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2026-12"),
        ("2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z", "2024-02-29"),
        ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2026"),
        ("2026-11-01T00:00:00Z", "2026-11-08T00:00:00Z", "2026-11-01 to 2026-11-08 UTC"),
        ("2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", "2026-10-31 23:00 to 2026-11-30 23:00 UTC"),
        ("2026-11-01T00:00:00Z", None, "since 2026-11-01"),
        (None, "2026-11-01T12:30:15Z", "until 2026-11-01 12:30:15"),
    ],
)
def test_a_period_is_named_as_people_name_it(begin, end, words):
    assert wording.period({"period": {"from_utc": begin, "to_utc": end}}) == words


@pytest.mark.parametrize(
    ("started", "ended", "words"),
    [
        (None, None, "-"),
        ("2026-11-01T00:00:00Z", "2026-11-02T12:00:01Z", "1-12:00:01"),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00.350000Z", "0.35 s"),
        ("2026-11-01T00:00:00Z", None, "01:00:00+"),
        ("2026-11-01T00:00:05Z", "2026-11-01T00:00:00Z", "00:00:00"),
    ],
)
def test_elapsed_time_is_written_as_slurm_writes_it(started, ended, words):
    job = {"started_at_utc": started, "ended_at_utc": ended}
    assert wording.elapsed(job, "2026-11-01T01:00:00Z") == words


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("plain ünïcödé שלום 中文 👩‍🔬", "plain ünïcödé שלום 中文 👩‍🔬"),
        ("a\u202eb", "a<U+202E>b"),
        ("zero\u200bwidth\ufeff", "zero<U+200B>width<U+FEFF>"),
        ("\x00\x1b[31m\x9b\n\t", "��[31m���"),
        ("\ud800", "�"),
    ],
)
def test_what_acts_unseen_is_made_visible(foreign, shown):
    assert wording.visible(foreign) == shown


def test_a_clipped_text_says_so():
    assert wording.clip("x" * 10_000, 8) == "xxxxxxx…"
    assert wording.clip("x" * 8, 8) == "xxxxxxxx"
