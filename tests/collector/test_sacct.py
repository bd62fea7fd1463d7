"""Job records out of sacct: recorded samples of two Slurm versions, hostile names, and the call itself."""

import io
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eco2ai_hpc.collector.sacct import FIELDS, read_sacct_file, read_sacct_text
from eco2ai_hpc.collector.slurm import run_sacct
from eco2ai_hpc.errors import BadInputError, SurroundingsError
from eco2ai_hpc.model import Problem, SlurmJob

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = ["22.05", "24.11"]
MIB = 1024 * 1024

Rows = list[SlurmJob | Problem]

PLAIN = {
    "JobIDRaw": "4711",
    "User": "alice",
    "Account": "proj",
    "State": "COMPLETED",
    "Submit": "1795399400",
    "Start": "1795399429",
    "End": "1795399515",
    "NodeList": "n1",
}


def read(text: str, time_zone: str = "UTC") -> Rows:
    stream = io.StringIO(text, newline="\n")
    return list(read_sacct_text(stream, source="jobs.txt", default_cluster="lab", time_zone=time_zone))


def table(*rows: dict[str, str], delimiter: str = "@3f9c@") -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(delimiter.join(line) + "\n" for line in lines)


def one(**columns: str) -> SlurmJob:
    """The job read from a sound row with these columns added or replaced."""
    (job,) = read(table({**PLAIN, **columns}))
    assert isinstance(job, SlurmJob)
    return job


def recorded(name: str, time_zone: str = "UTC") -> Rows:
    return list(read_sacct_file(FIXTURES / name, default_cluster="lab", time_zone=time_zone))


def jobs_of(version: str) -> list[SlurmJob]:
    rows = recorded(f"sacct-{version}-random-delimiter.txt")
    jobs = [row for row in rows if isinstance(row, SlurmJob)]
    assert len(jobs) == len(rows)
    return jobs


# --- recorded samples


@pytest.mark.parametrize(("version", "count"), [("22.05", 28), ("24.11", 25)])
def test_every_record_of_the_sample_is_read_once(version: str, count: int) -> None:
    jobs = jobs_of(version)
    assert len(jobs) == count
    assert len({(job.cluster, job.db_index) for job in jobs}) == count
    assert {job.cluster for job in jobs} == {"lab"}
    assert {job.uid for job in jobs} == {5001}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_requeued_job_has_two_runs_of_the_same_id(version: str) -> None:
    first, second = (job for job in jobs_of(version) if job.job_id == 16)
    assert (first.state, second.state) == ("REQUEUED", "CANCELLED")
    assert first.db_index != second.db_index
    assert first.ended_at_s is not None
    assert second.started_at_s is not None
    assert first.ended_at_s < second.started_at_s


@pytest.mark.parametrize("version", VERSIONS)
def test_a_resized_job_has_two_records_with_their_own_nodes(version: str) -> None:
    first, second = (job for job in jobs_of(version) if job.name == "resized" and job.node_list)
    assert (first.state, first.node_list, first.nodes) == ("RESIZING", "n[1-2]", 2)
    assert (second.state, second.node_list, second.nodes) == ("COMPLETED", "n1", 1)
    assert first.job_id == second.job_id


@pytest.mark.parametrize("version", VERSIONS)
def test_array_tasks_have_their_own_raw_id_and_the_last_that_of_the_array(version: str) -> None:
    tasks = {job.job_label: job for job in jobs_of(version) if job.array_job_id == 9}
    assert {label: (job.job_id, job.array_task_id) for label, job in tasks.items()} == {
        "9_1": (13, 1),
        "9_2": (14, 2),
        "9_3": (9, 3),
    }


def test_array_tasks_that_never_ran_are_one_record_without_a_task() -> None:
    (job,) = (job for job in jobs_of("22.05") if job.job_label == "24_[5-6]")
    assert (job.job_id, job.array_job_id, job.array_task_id) == (24, 24, None)


@pytest.mark.parametrize("version", VERSIONS)
def test_components_of_a_het_job_know_their_leader_and_offset(version: str) -> None:
    parts = [(job.job_id, job.het_job_id, job.het_offset) for job in jobs_of(version) if job.het_job_id]
    assert parts == [(10, 10, 0), (11, 10, 1)]


@pytest.mark.parametrize("version", VERSIONS)
def test_hostile_names_come_back_exactly(version: str) -> None:
    names = {job.job_id: (job.name, job.line) for job in jobs_of(version)}
    assert names[7] == ("a|b,`c`<x>", 7)
    assert names[8] == ("new\nline", 10)


def test_a_job_cancelled_before_it_ran_has_no_nodes_and_no_start() -> None:
    never = [job for job in jobs_of("22.05") if job.node_list is None]
    assert [job.job_id for job in never] == [18, 23, 24]
    for job in never:
        assert job.state == "CANCELLED"
        assert (job.started_at_s, job.nodes, job.cpus, job.memory_bytes, job.gpus) == (None,) * 5


@pytest.mark.parametrize("version", VERSIONS)
def test_a_running_job_has_no_end(version: str) -> None:
    (job,) = (job for job in jobs_of(version) if job.state == "RUNNING")
    assert job.ended_at_s is None
    assert job.started_at_s is not None


def test_suspended_time_limit_memory_and_gpus_have_their_units() -> None:
    jobs = {job.name: job for job in jobs_of("24.11")}
    assert (jobs["susp"].suspended_s, jobs["susp"].timelimit_s) == (4, 3600)
    assert jobs["timeout"].timelimit_s == 60
    assert (jobs["gpus"].gpus, jobs["gpus"].nodes, jobs["gpus"].cpus) == (2, 2, 2)
    assert jobs["gpus"].memory_bytes == 200 * MIB
    assert jobs["done"].gpus is None
    assert (jobs["done"].consumed_energy_raw_j, jobs["nodefail"].consumed_energy_raw_j) == (0, None)


def test_a_partition_s_limit_is_not_a_time_limit_of_the_job() -> None:
    (first, _) = (job for job in jobs_of("22.05") if job.job_id == 16)
    assert first.timelimit_s is None


def test_db_index_keeps_numbers_beyond_what_a_bigint_holds() -> None:
    job = jobs_of("24.11")[0]
    assert (job.db_index, job.sluid) == ("11053671974806361088", "s9JSM832H0C500")
    assert jobs_of("22.05")[0].sluid is None


@pytest.mark.parametrize("version", VERSIONS)
def test_states_are_the_first_word(version: str) -> None:
    states = Counter(job.state for job in jobs_of(version))
    assert {"TIMEOUT", "FAILED", "OUT_OF_MEMORY", "PREEMPTED", "NODE_FAIL", "RESIZING"} <= set(states)
    assert not any(" " in state for state in states)


def test_plain_output_is_read_when_the_name_is_last() -> None:
    jobs = recorded("sacct-22.05-plain-name-last-paris.psv", time_zone="Europe/Paris")
    assert [(job.job_label, job.name) for job in jobs if isinstance(job, SlurmJob)] == [
        ("1", "wrap"),
        ("2", "mem0"),
        ("3", "x\ty\r\nz\x0b??"),
        ("4", "wrap"),
        ("5", "end\n"),
        ("6", "a|b,`c`\nsecond|line"),
        ("7_1", "arr"),
        ("7_2", "arr"),
    ]
    assert len(jobs) == 8


def test_local_times_are_read_in_the_given_zone() -> None:
    job = recorded("sacct-22.05-plain-name-last-paris.psv", time_zone="Europe/Paris")[0]
    assert isinstance(job, SlurmJob)
    assert (job.started_at_s, job.ended_at_s) == (1795404087, 1795404088)


def test_plain_output_with_the_name_elsewhere_loses_only_the_hostile_records() -> None:
    rows = recorded("sacct-22.05-plain-name-first.psv")
    assert [row.job_id for row in rows if isinstance(row, SlurmJob)] == [1, 2, 3, 4, 5, 8, 7]
    problems = [(row.line, row.found) for row in rows if isinstance(row, Problem)]
    assert problems == [
        (4, r"1 field in 1 line: 'x\ty\r'"),
        (7, "1 field in 1 line: 'end'"),
        (9, "2 fields in 2 lines: 'a|b,`c`'"),
    ]
    assert all(row.file.endswith("sacct-22.05-plain-name-first.psv") for row in rows if isinstance(row, Problem))


# --- what the header may be


def test_missing_columns_are_named_with_the_command_that_has_them() -> None:
    with pytest.raises(BadInputError, match=r"without-account\.psv, line 1: the header lacks Account$") as caught:
        recorded("sacct-22.05-steps-without-account.psv")
    assert "--delimiter=@$RANDOM$RANDOM@" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "jobs.txt is empty"),
        ("4711|alice|proj|COMPLETED\n", "expected a header line of sacct -P, found '4711|alice|proj|COMPLETED'"),
        ("\n", "expected a header line"),
        ("       JobID       User    Account \n", "expected a header line"),
        ("JobName|User|State\n", "lacks JobIDRaw, Account, Start, End, NodeList"),
        ("JobIDRaw\n", "lacks User, Account, State, Start, End, NodeList"),
    ],
)
def test_what_is_no_header_stops_at_once(text: str, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_sacct_text(io.StringIO(text), source="jobs.txt", default_cluster="lab", time_zone="UTC")
    assert message in str(caught.value)
    assert caught.value.hint


def test_a_file_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"nowhere\.txt cannot be read"):
        list(read_sacct_file(tmp_path / "nowhere.txt", default_cluster="lab", time_zone="UTC"))


def test_an_unknown_time_zone_is_bad_input() -> None:
    with pytest.raises(BadInputError, match="'Europe/Nowhere'"):
        read(table(PLAIN), time_zone="Europe/Nowhere")


@pytest.mark.parametrize("delimiter", ["|", "@3f9c@", "@beef@", "||", "\t", ";", "@0a1b2c3d4e5f6071@", "+.+"])
def test_the_delimiter_is_found_in_the_header(delimiter: str) -> None:
    (job,) = read(table(PLAIN, delimiter=delimiter))
    assert isinstance(job, SlurmJob)
    assert (job.job_id, job.node_list) == (4711, "n1")


def test_header_names_may_have_any_case_and_windows_ends() -> None:
    text = table({name.upper(): value for name, value in PLAIN.items()}).replace("\n", "\r\n")
    (job,) = read("\ufeff" + text)
    assert isinstance(job, SlurmJob)
    assert job.node_list == "n1"


def test_files_put_behind_each_other_are_read_through() -> None:
    rows = read(table(PLAIN) * 2 + "\n" + table(PLAIN, delimiter="@3f9c@"))
    assert [type(row) for row in rows] == [SlurmJob] * 3


def test_bytes_that_are_not_utf_8_stay_readable(tmp_path: Path) -> None:
    path = tmp_path / "jobs.txt"
    path.write_bytes(table({**PLAIN, "JobName": "x?", "AssocID": "4"}).encode().replace(b"x?", b"x\xff\r\n|"))
    (job,) = read_sacct_file(path, default_cluster="lab", time_zone="UTC")
    assert isinstance(job, SlurmJob)
    assert job.name == "x\\xff\r\n|"


# --- values


@pytest.mark.parametrize(
    ("tres", "memory_bytes", "gpus"),
    [
        ("billing=1,cpu=1,mem=200M,node=1", 200 * MIB, None),
        ("cpu=1,mem=3.91G", round(3.91 * 1024 * MIB), None),
        ("cpu=1,mem=2T,gres/gpu:a100=4,gres/gpu=4", 2 * 1024 * 1024 * MIB, 4),
        ("gres/gpu:a100=4,gres/gpu:v100=2,mem=512K", 512 * 1024, 6),
        ("cpu=1,gres/gpumem=40G,gres/gpuutil=90,mem=16", 16 * MIB, None),
        ("mem=0,gres/gpu=0", None, 0),
        ("mem=18446744073709551614,gres/gpu=18446744073709551615", None, None),
        ("", None, None),
    ],
)
def test_memory_and_gpus_come_from_alloc_tres(tres: str, memory_bytes: int | None, gpus: int | None) -> None:
    job = one(AllocTRES=tres)
    assert (job.memory_bytes, job.gpus, job.alloc_tres) == (memory_bytes, gpus, tres or None)


@pytest.mark.parametrize("number", ["4294967294", "4294967295", "18446744073709551614", "18446744073709551615", ""])
def test_numbers_that_mean_not_set_are_unknown(number: str) -> None:
    job = one(UID=number, NNodes=number, NCPUS=number, ConsumedEnergyRaw=number, TimelimitRaw=number)
    assert (job.uid, job.nodes, job.cpus, job.consumed_energy_raw_j, job.timelimit_s) == (None,) * 5


def test_a_number_that_cannot_be_read_is_unknown_and_reported_beside_the_job() -> None:
    problem, job = read(table({**PLAIN, "ConsumedEnergyRaw": "100000000000000000000", "NNodes": "2"}))
    assert problem == Problem("jobs.txt", 2, "consumedenergyraw: a whole number below 2^63", "'100000000000000000000'")
    assert isinstance(job, SlurmJob)
    assert (job.consumed_energy_raw_j, job.nodes) == (None, 2)


@pytest.mark.parametrize("number", ["9" * 5000, "²", "-1", "1e3"])
def test_a_strange_number_in_any_column_ends_nothing(number: str) -> None:
    numbers = ["UID", "NNodes", "NCPUS", "ConsumedEnergyRaw", "TimelimitRaw", "Suspended", "Timelimit", "JobID"]
    row = {**PLAIN, **dict.fromkeys(numbers, number), "AllocTRES": f"mem={number},gres/gpu={number}"}
    *problems, job = read(table(row))
    assert isinstance(job, SlurmJob)
    assert (job.uid, job.memory_bytes, job.gpus, job.array_job_id) == (None,) * 4
    assert {problem.line for problem in problems} == {2}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"JobIDRaw": "x"}, "jobidraw: a job's number"),
        ({"State": ""}, "state: a word"),
        ({"End": "Ystday 10:00"}, "end: epoch seconds or 2026-11-23T02:03:49"),
        ({"Start": "2026-13-40T10:00:00"}, "start: a time that exists"),
    ],
)
def test_a_record_without_id_state_or_time_is_a_problem_and_the_rest_loads(
    columns: dict[str, str], expected: str
) -> None:
    problem, job = read(table({**PLAIN, **columns}, PLAIN))
    assert isinstance(problem, Problem)
    assert (problem.line, problem.expected) == (2, expected)
    assert isinstance(job, SlurmJob)


@pytest.mark.parametrize(
    ("zone", "text", "expected_s"),
    [
        ("UTC", "1795399429", 1795399429),
        ("UTC", "2026-11-23T02:03:49", 1795399429),
        ("Europe/Paris", "2026-11-23T03:03:49", 1795399429),
        ("Europe/Paris", "2026-11-23T02:03:49+0000", 1795399429),
        ("Europe/Paris", "2026-10-25T02:30:00", 1792888200),  # twice that night: the first pass, still summer time
        ("UTC", "Unknown", None),
        ("UTC", "None", None),
        ("UTC", "", None),
        ("UTC", "0", None),
    ],
)
def test_times_become_epoch_seconds(zone: str, text: str, expected_s: int | None) -> None:
    (job,) = read(table({**PLAIN, "End": text}), time_zone=zone)
    assert isinstance(job, SlurmJob)
    assert job.ended_at_s == expected_s


@pytest.mark.parametrize(
    ("columns", "limit_s"),
    [
        ({"TimelimitRaw": "90"}, 5400),
        ({"TimelimitRaw": "UNLIMITED"}, None),
        ({"Timelimit": "1-02:03:04"}, 93784),
        ({"Timelimit": "01:00:00"}, 3600),
        ({"Timelimit": "Partition_Limit"}, None),
        ({}, None),
    ],
)
def test_the_time_limit_is_read_from_either_column(columns: dict[str, str], limit_s: int | None) -> None:
    assert one(**columns).timelimit_s == limit_s


def test_without_db_index_runs_are_told_apart_by_submit_or_start() -> None:
    assert one().db_index == "4711@1795399400"
    assert one(Submit="Unknown").db_index == "4711@start:1795399429"
    assert one(DBIndex="46").db_index == "46"


def test_without_job_id_raw_an_array_task_cannot_be_told() -> None:
    row = {"JobID": "4711", **{name: value for name, value in PLAIN.items() if name != "JobIDRaw"}}
    job, problem = read(table(row, {**row, "JobID": "9_3"}))
    assert isinstance(job, SlurmJob)
    assert (job.job_id, job.job_label) == (4711, "4711")
    assert isinstance(problem, Problem)
    assert "JobIDRaw" in problem.expected


def test_the_sluid_that_the_hooks_saw_comes_first() -> None:
    assert one(SLUID="s9JSM832MZV000", OriginalSLUID="s9JSM832MWWS00").sluid == "s9JSM832MWWS00"
    assert one(SLUID="s9JSM832MZV000", OriginalSLUID="").sluid == "s9JSM832MZV000"


def test_steps_are_left_out() -> None:
    batch = {**PLAIN, "JobIDRaw": "4711.batch", "User": ""}
    assert len(read(table(PLAIN, batch, {**batch, "JobIDRaw": "4711.0"}))) == 1


def test_a_record_without_cluster_belongs_to_the_given_one() -> None:
    assert one().cluster == "lab"
    assert one(Cluster="alpha").cluster == "alpha"


# --- hostile names


def safe_under(delimiter: str, name: str) -> bool:
    """Whether nobody wrote (part of) the delimiter: the users do not know it."""
    return delimiter not in name and (name + delimiter).index(delimiter) == len(name)


HOSTILE = st.text(st.one_of(st.sampled_from("\n|@=,'\"`\\ \r\t;.ab0"), st.characters(exclude_categories=["Cs"])))


@st.composite
def hostile_tables(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A table under a random delimiter with safe ends, and the job names that it holds."""
    delimiter = f"@{draw(st.text('0123456789abcdef', min_size=4, max_size=16))}@"
    middle = draw(st.permutations([*PLAIN, "JobName", "Comment"]))
    names = draw(st.lists(HOSTILE, min_size=1, max_size=5))
    rows = []
    for name in names:
        comment = draw(HOSTILE)
        assume(safe_under(delimiter, name) and safe_under(delimiter, comment))
        values = {**PLAIN, "JobName": name, "Comment": comment}
        rows.append({"Cluster": "lab", **{column: values[column] for column in middle}, "AssocID": "4"})
    return table(*rows, delimiter=delimiter), names


@settings(deadline=None)
@given(hostile_tables())
def test_any_name_survives_a_random_delimiter(written: tuple[str, list[str]]) -> None:
    text, names = written
    jobs = read(text)
    assert [job.name for job in jobs if isinstance(job, SlurmJob)] == [name or None for name in names]
    assert len(jobs) == len(names)


@settings(deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=5))
def test_any_name_in_the_last_column_survives_a_random_delimiter(names: list[str]) -> None:
    delimiter = "@9f3a01c2@"
    assume(all(safe_under(delimiter, name) for name in names))
    jobs = read(table(*({**PLAIN, "JobName": name} for name in names), delimiter=delimiter))
    assert [job.name for job in jobs if isinstance(job, SlurmJob)] == [name or None for name in names]


@settings(deadline=None)
@given(st.lists(HOSTILE.filter(lambda name: name.count("|") < len(PLAIN)), min_size=1, max_size=5))
def test_any_name_in_the_last_column_survives_a_plain_delimiter(names: list[str]) -> None:
    jobs = read(table(*({**PLAIN, "JobName": name} for name in names), delimiter="|"))
    assert [job.name for job in jobs if isinstance(job, SlurmJob)] == [name or None for name in names]


@settings(deadline=None)
@given(text=HOSTILE, cut=st.integers(0, 400))
def test_whatever_stands_below_the_header_nothing_but_jobs_and_problems_comes_out(text: str, cut: int) -> None:
    for delimiter in ("|", "@3f9c@"):
        written = table({**PLAIN, "JobName": text, "AssocID": "4"}, PLAIN | {"JobName": "", "AssocID": "4"})
        header, _, below = written.replace("@3f9c@", delimiter).partition("\n")
        assert all(isinstance(row, SlurmJob | Problem) for row in read(f"{header}\n{below[:cut]}\n{text}\n{below}"))


def test_a_record_cut_off_is_a_problem_and_the_next_is_read() -> None:
    whole = table({"Cluster": "lab", **PLAIN, "AssocID": "4"})
    header, row, _ = whole.split("\n")
    for kept in (2, 20, 60):
        problem, job = read(f"{header}\n{row[:kept]}\n{row}\n")
        assert isinstance(problem, Problem)
        assert (problem.line, problem.found.split(":")[0][-9:]) == (2, "in 1 line")
        assert isinstance(job, SlurmJob)
        assert job.line == 3


def test_a_record_cut_off_at_the_end_is_a_problem() -> None:
    text = table(PLAIN, PLAIN)
    job, problem = read(text[:-30])
    assert isinstance(job, SlurmJob)
    assert isinstance(problem, Problem)
    assert problem.line == 3


# --- the call


class FakeSacct:
    """A `sacct` on PATH that notes its arguments and runs a few lines of shell."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def answers(self, body: str, fields: str = " ".join(FIELDS)) -> None:
        script = self.folder / "sacct"
        script.write_text(
            f'#!/bin/bash\nif [ "$1" = --helpformat ]; then printf "%s  \\n" {fields}; exit 0; fi\n'
            f'printf "%s\\n" "$@" >"{self.folder}/arguments"\n'
            f'echo "$TZ $SLURM_TIME_FORMAT" >"{self.folder}/environment"\n'
            "for a; do case $a in --delimiter=*) D=${a#--delimiter=};; esac; done\n" + body
        )
        script.chmod(0o755)

    @property
    def arguments(self) -> list[str]:
        return (self.folder / "arguments").read_text().splitlines()


@pytest.fixture
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSacct:
    return FakeSacct(tmp_path, monkeypatch)


def ask(**options: float) -> Iterator[SlurmJob | Problem]:
    return run_sacct(1795399000, 1795400000, cluster="lab", **options)


def test_run_sacct_reads_what_sacct_prints_under_its_delimiter(sacct: FakeSacct) -> None:
    sacct.answers(f"sed \"s/@3f9c@/$D/g\" '{FIXTURES}/sacct-24.11-random-delimiter.txt'\n")
    jobs = [job for job in ask() if isinstance(job, SlurmJob)]
    assert [job._replace(source="") for job in jobs] == [job._replace(source="") for job in jobs_of("24.11")]
    assert {job.source for job in jobs} == {"sacct"}
    assert sacct.arguments[:6] == ["-a", "-X", "-D", "-P", "--noconvert", sacct.arguments[5]]
    assert len(sacct.arguments[5]) >= len("--delimiter=@@") + 16
    assert sacct.arguments[6:-1] == ["-S", "uts1795399000", "-E", "uts1795400000", "-o"]
    assert (sacct.folder / "environment").read_text() == "UTC %s\n"


def test_run_sacct_asks_only_for_fields_that_this_slurm_knows(sacct: FakeSacct) -> None:
    known = [name for name in FIELDS if name not in {"SLUID", "OriginalSLUID"}]
    sacct.answers(f"cat '{FIXTURES}/sacct-22.05-random-delimiter.txt'\n", fields=" ".join(known))
    assert len(list(ask())) == 28
    assert sacct.arguments[-1] == ",".join(known)
    assert sacct.arguments[-1].startswith("Cluster,")
    assert sacct.arguments[-1].endswith(",JobName,AssocID")


def test_each_call_has_its_own_delimiter(sacct: FakeSacct) -> None:
    sacct.answers(f"cat '{FIXTURES}/sacct-24.11-random-delimiter.txt'\n")
    seen = set()
    for _ in range(2):
        list(ask())
        seen.add(sacct.arguments[5])
    assert len(seen) == 2


def test_a_period_from_the_beginning_of_time_is_one_that_sacct_accepts(sacct: FakeSacct) -> None:
    sacct.answers(f"cat '{FIXTURES}/sacct-24.11-random-delimiter.txt'\n")
    list(run_sacct(0, 1795400000, cluster="lab"))
    assert sacct.arguments[6:8] == ["-S", "uts1000000"]


def test_a_missing_sacct_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SurroundingsError, match="sacct cannot be run") as caught:
        next(ask())
    assert "--jobs FILE" in (caught.value.hint or "")
    assert "--jobs none" in (caught.value.hint or "")


def test_a_failing_sacct_speaks_for_itself(sacct: FakeSacct) -> None:
    sacct.answers("echo 'sacct: error: Connection refused' >&2; echo 'sacct: fatal: no database' >&2; exit 1\n")
    with pytest.raises(SurroundingsError, match="status 1: sacct: error: Connection refused; sacct: fatal: no data"):
        list(ask())


def test_a_sacct_that_fails_half_way_does_not_pass_for_a_short_period(sacct: FakeSacct) -> None:
    sacct.answers(f"head -n 5 '{FIXTURES}/sacct-24.11-random-delimiter.txt'; printf '0@3f9c@s9'; kill -9 $$\n")
    rows: Rows = []
    with pytest.raises(SurroundingsError, match="ended by signal 9"):
        rows.extend(ask())
    assert len(rows) == 4
    assert not any(isinstance(row, Problem) for row in rows)


def test_a_sacct_that_prints_nothing_is_not_an_empty_period(sacct: FakeSacct) -> None:
    sacct.answers("exit 0\n")
    with pytest.raises(SurroundingsError, match="sacct is empty"):
        list(ask())


def test_a_sacct_that_is_too_old_is_named(sacct: FakeSacct) -> None:
    sacct.answers("exit 0\n", fields="JobID User Account State Start End NodeList")
    with pytest.raises(SurroundingsError, match="does not name JobIDRaw"):
        list(ask())


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_ended(pid: int) -> bool:
    limit = time.monotonic() + 5
    while not ended(pid) and time.monotonic() < limit:
        os.sched_yield()
    return ended(pid)


@pytest.mark.parametrize("body", ["sleep 60 & echo $! >{pid}; wait\n", "sleep 60 & echo $! >{pid}; exit 0\n"])
def test_a_sacct_that_hangs_is_ended_with_its_children(sacct: FakeSacct, body: str) -> None:
    pid = sacct.folder / "pid"
    sacct.answers(body.format(pid=f"'{pid}'"))
    with pytest.raises(SurroundingsError, match=r"did not finish within 1\.5 s"):
        list(ask(timeout_s=1.5))
    assert wait_until_ended(int(pid.read_text()))


def test_stopping_early_ends_sacct(sacct: FakeSacct) -> None:
    pid = sacct.folder / "pid"
    sacct.answers(f"echo $$ >'{pid}'; cat '{FIXTURES}/sacct-24.11-random-delimiter.txt'; exec sleep 60\n")
    rows = ask()
    assert isinstance(next(rows), SlurmJob)
    rows.close()  # type: ignore[attr-defined]
    assert wait_until_ended(int(pid.read_text()))
