"""Stands in for eco2ai-sampler: takes the lock, leaves slurmd's reach, says ready; writes down how it was started."""

import fcntl
import json
import os
import sys
import time
from pathlib import Path


def is_open(number: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def main() -> None:
    run_dir = Path(sys.argv[sys.argv.index("--run-dir") + 1])
    ready, report = os.pipe()
    if os.fork():
        os.close(report)
        sys.exit(0 if os.read(ready, 1) else 1)
    os.setsid()
    lock = os.open(run_dir / "sampler.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(report, b".")
        sys.exit(0)
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (run_dir / "sampler.pid").write_text(f"{os.getpid()} {started}\n")
    seen = {
        "pid": os.getpid(),
        "arguments": sys.argv[1:],
        "environment": {name: os.environ[name] for name in sorted(os.environ)},
        "directory": os.getcwd(),
        "open": [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)],
        "others": [number for number in range(3, 100) if number not in (ready, report, lock) and is_open(number)],
        "marks": sorted(path.name.rpartition(".")[0] for path in (run_dir / "marks").iterdir()),
    }
    with (run_dir / "launches").open("a") as file:
        file.write(json.dumps(seen) + "\n")
    os.write(report, b".")
    time.sleep(60)


if __name__ == "__main__":
    main()
