"""`eco2ai-sampler run | probe`: the node's only command."""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from eco2ai_hpc import __version__, meters
from eco2ai_hpc.errors import SURROUNDINGS, ConfigError, Eco2aiError
from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import daemon, placement, slurm_conf
from eco2ai_hpc.sampler.evidence import Keeping
from eco2ai_hpc.sampler.host import Host
from eco2ai_hpc.sampler.loop import Sampler, Settings
from eco2ai_hpc.sampler.worker import owner_of

_LONGEST_SEAL_S = 86400
_HIGHEST_TDP_W = 2000
_SMALLEST_SPOOL_BYTES = 1 << 20
_LONGEST_KEEP_DAYS = 3650


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    arguments = _parser().parse_args(words)
    action: Callable[[argparse.Namespace], int] = arguments.action
    try:
        return action(arguments)
    except (Eco2aiError, OSError) as error:
        code, text = _told(error)
        print(text, file=sys.stderr)
        return code


def _told(error: Eco2aiError | OSError) -> tuple[int, str]:
    """The exit code and what is printed."""
    if isinstance(error, Eco2aiError):
        return error.exit_code, error.render()
    place = f": {error.filename}" if error.filename else ""
    return SURROUNDINGS, f"error: {error.strerror or error}{place}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eco2ai-sampler",
        description="Record this node's energy counters and jobs as evidence.",
        epilog="example: eco2ai-sampler run --cluster alpha --foreground",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="run|probe|doctor")
    sample = commands.add_parser("run", help="sample until SIGTERM (a second sampler on a node is a no-op)")
    sample.set_defaults(action=_run)
    probe = commands.add_parser("probe", help="show what can be measured here, and what would be needed for more")
    probe.set_defaults(action=_probe)
    probe.add_argument("--json", action="store_true", help="machine-readable")
    doctor = commands.add_parser("doctor", help="one line on this node's health; exits 0 whatever it finds")
    doctor.set_defaults(action=_doctor)
    doctor.add_argument("--strict", action="store_true", help="exit 1 where something is wrong")
    for command in (sample, doctor):
        _path(command, "--spool-dir", "/var/spool/eco2ai-hpc")
        _path(command, "--run-dir", "/run/eco2ai-hpc")
    for command in (sample, probe):
        _path(command, "--sysfs", "/sys")
        _path(command, "--procfs", "/proc")
        _path(command, "--cgroupfs", "/sys/fs/cgroup")
        command.add_argument(
            "--tdp-w", type=float, default=_environment("TDP_W"), help="for the model meter, per socket"
        )
        command.add_argument(
            "--gpu-order", choices=("file", "autodetect"), default=_environment("GPU_ORDER"),
            help="what Slurm's GPU numbers count: N of /dev/nvidiaN, or NVML's order; default: both must agree",
        )  # fmt: skip
        command.add_argument("--tdp-source", default=_environment("TDP_SOURCE") or "configured", help=argparse.SUPPRESS)
    sample.add_argument("--interval", type=float, default=_environment("INTERVAL") or 30.0, help="seconds, 30 at most")
    sample.add_argument("--seal-seconds", type=float, default=_environment("SEAL_SECONDS") or 300.0)
    sample.add_argument("--node", default=_environment("NODE"), help="default: the short host name")
    sample.add_argument("--cluster", default=_environment("CLUSTER"), help="default: Slurm's ClusterName")
    sample.add_argument("--manager", choices=("slurm", "local"), default="slurm")
    sample.add_argument("--foreground", action="store_true", help="do not become a daemon")
    _spool_flags(sample)
    _placement_flags(sample)
    return parser


def _spool_flags(sample: argparse.ArgumentParser) -> None:
    sample.add_argument(
        "--spool-max-bytes", type=int, default=_environment("SPOOL_MAX_BYTES"), metavar="N",
        help="bound of this node's evidence; default: 5 %% of its file system",
    )  # fmt: skip
    sample.add_argument(
        "--spool-keep-days", type=float, default=_environment("SPOOL_KEEP_DAYS") or 1.0, metavar="N",
        help="keep what is in the ledger so long (default: 1)",
    )  # fmt: skip
    sample.add_argument(
        "--spool-user", default=_environment("SPOOL_USER"), metavar="NAME", help="owner of a root-squashed spool"
    )


def _placement_flags(sample: argparse.ArgumentParser) -> None:
    sample.add_argument(
        "--pin-cores", default=_environment("PIN_CORES") or "auto", metavar="auto|off|LIST",
        help="run on these CPUs only; auto: those of ECO2AI_HPC_CORE_SPEC, if it is set",
    )  # fmt: skip
    sample.add_argument(
        "--nice", type=int, default=_environment("NICE"), metavar="N", help="default: that of who starts it"
    )


def _environment(name: str) -> str | None:
    return os.environ.get(f"ECO2AI_HPC_{name}") or None


def _path(parser: argparse.ArgumentParser, flag: str, default: str) -> None:
    variable = flag.strip("-").replace("-", "_").upper()
    parser.add_argument(flag, metavar="DIR", default=_environment(variable) or default)


def _roots(arguments: argparse.Namespace) -> Roots:
    return Roots(*map(os.path.abspath, (arguments.sysfs, arguments.procfs, arguments.cgroupfs)))


def _options(arguments: argparse.Namespace) -> meters.Options:
    if arguments.tdp_w is not None and not 0 < arguments.tdp_w < _HIGHEST_TDP_W:
        raise ConfigError(f"--tdp-w {arguments.tdp_w:g} is not within 0 to {_HIGHEST_TDP_W} W a socket")
    return meters.Options(tdp_w=arguments.tdp_w, tdp_source=arguments.tdp_source, gpu_order=arguments.gpu_order)


def _settings(arguments: argparse.Namespace) -> Settings:
    if not 0 < arguments.interval <= 30:
        raise ConfigError(
            f"--interval {arguments.interval:g} is not within 0 to 30 s", hint="AMD counters can wrap within 131 s"
        )
    if not 0 < arguments.seal_seconds <= _LONGEST_SEAL_S:
        raise ConfigError(f"--seal-seconds {arguments.seal_seconds:g} is not within 0 to {_LONGEST_SEAL_S} s")
    placement.niceness(arguments.nice)
    placement.cores(arguments.pin_cores, _environment("CORE_SPEC"))
    return Settings(
        cluster=arguments.cluster or _cluster_name(arguments.manager),
        node=arguments.node or os.uname().nodename.partition(".")[0],
        # A daemon changes its directory.
        spool_dir=os.path.abspath(arguments.spool_dir),
        run_dir=os.path.abspath(arguments.run_dir),
        roots=_roots(arguments),
        interval_s=arguments.interval,
        seal_s=arguments.seal_seconds,
        manager=arguments.manager,
        options=_options(arguments),
        keeping=_keeping(arguments),
    )


def _keeping(arguments: argparse.Namespace) -> Keeping:
    if arguments.spool_max_bytes is not None and arguments.spool_max_bytes < _SMALLEST_SPOOL_BYTES:
        raise ConfigError(f"--spool-max-bytes {arguments.spool_max_bytes} is less than {_SMALLEST_SPOOL_BYTES}")
    if not 0 <= arguments.spool_keep_days <= _LONGEST_KEEP_DAYS:
        raise ConfigError(f"--spool-keep-days {arguments.spool_keep_days:g} is not within 0 to {_LONGEST_KEEP_DAYS}")
    return Keeping(
        max_bytes=arguments.spool_max_bytes,
        keep_s=arguments.spool_keep_days * 86_400,
        owner=owner_of(arguments.spool_user),
    )


def _place(arguments: argparse.Namespace) -> None:
    pinned = placement.cores(arguments.pin_cores, _environment("CORE_SPEC"))
    refused = placement.settle(pinned, arguments.nice, spare_in_oom=arguments.manager == "slurm")
    if refused:
        print(f"warning: the kernel refused {refused}", file=sys.stderr)


def _cluster_name(manager: str) -> str:
    if manager == "local":
        return "local"
    name = slurm_conf.cluster_name()
    if name:
        return name
    raise ConfigError("the cluster's name is unknown: no slurm.conf was found", hint="give --cluster NAME")


def _run(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    report_to = None if arguments.foreground else daemon.detach()
    try:
        if not daemon.take_lock(settings.run_dir):
            daemon.ready(report_to)
            return 0
        _place(arguments)
        sampler = Sampler(settings, Host(settings.roots), meters.open_all(settings.roots, settings.options))
        sampler.prepare()
    except (Eco2aiError, OSError) as error:
        daemon.ready(report_to, *_told(error))
        raise
    wakeup = _stop_on_signals(sampler)
    daemon.ready(report_to)
    try:
        sampler.run(wakeup)
    finally:
        daemon.remove_pid(settings.run_dir)
    return 0


def _stop_on_signals(sampler: Sampler) -> int:
    """SIGTERM and SIGINT end the loop at once, between two steps; returns the descriptor that wakes it."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: sampler.stop())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return read_end


def _doctor(arguments: argparse.Namespace) -> int:
    from eco2ai_hpc.sampler import doctor

    return doctor.main(arguments.run_dir, arguments.spool_dir, strict=arguments.strict)


def _probe(arguments: argparse.Namespace) -> int:
    # Only here: the resident sampler does not pay for it.
    from eco2ai_hpc.sampler import probe

    found = probe.examine(_roots(arguments), _options(arguments))
    print(probe.as_json(found) if arguments.json else probe.as_text(found))
    return 0 if any(meter["status"] == "works" for meter in found["meters"]) else 1


if __name__ == "__main__":
    main()
