"""Builds a free-threaded CPython from Debian's source package, and virtual environments for the benchmark.

    python benchmarks/free_threading/build.py                     # ten minutes with one compiler at a time
    python benchmarks/free_threading/build.py --source cpython/   # another source tree, or its archive

Takes 3.14 if the package mirror of this machine has its source, otherwise 3.13: the archive as its authors released
it, without Debian's patches. It is configured with `--disable-gil` and, to be quick, without profile-guided
optimisation: compare the rows of one interpreter with one another, not with one that was built with it.

All of it goes to `.bench/free-threading`: package lists of its own, the sources, the interpreter, and an environment
with the project for it and another for the interpreter that runs this. Needs root on Debian or Ubuntu, or sudo, for the
headers of a few libraries.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PLACE = TOP / ".bench" / "free-threading"

#: What is tried, in this order, from which releases of Debian.
NAMES = ["python3.14", "python3.13"]
SUITES = ["forky", "sid", "trixie"]
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

HEADERS = ["build-essential", "libbz2-dev", "libffi-dev", "liblzma-dev", "libsqlite3-dev", "libssl-dev", "zlib1g-dev"]

#: Which packages must come as wheels: building them needs more than a C compiler.
WHEELS_ONLY = "pydantic-core"


def run(*command: str | Path, cwd: Path | None = None, log: Path | None = None) -> None:
    """Run a command at the lowest priority; end with what it said if it fails."""
    print("+", *command, flush=True)
    output = log.open("w") if log else None
    done = subprocess.run(["nice", "-n", "15", *command], cwd=cwd, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        said = f"\n{log.read_text(errors='replace')[-2000:]}" if log else ""
        sys.exit(f"{command[0]} failed with exit code {done.returncode}{said}")


def mirror() -> str:
    """Return where this machine gets Debian's packages from."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    sites = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    fitting = sorted({site for site in sites if site.rstrip("/").endswith("/debian")})
    if not fitting:
        sys.exit("this machine's apt knows no mirror of Debian; name a source tree with --source")
    return fitting[0]


def apt_options() -> list[str]:
    """Make a root of its own for apt, so that the machine's package lists stay as they are; return its options."""
    root = PLACE / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    signed = f"[signed-by={KEYRING}]" if KEYRING.exists() else ""
    site = mirror()
    (root / "sources.list").write_text("".join(f"deb-src {signed} {site} {suite} main\n" for suite in SUITES))
    settings = {
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": root / "lists",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
        "APT::Sandbox::User": "root",
    }
    return [f"-o{key}={value}" for key, value in settings.items()]


def versions(options: list[str], name: str) -> Iterator[str]:
    """Yield the versions of a source package, newest first: a mirror may not have all that it lists."""
    command = ["apt-cache", *options, "showsrc", "--only-source", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    found = {line.removeprefix("Version: ") for line in listed if line.startswith("Version: ")}
    yield from sorted(found, key=lambda version: [int(part) for part in re.findall(r"\d+", version)], reverse=True)


def download() -> Path:
    """Return the archive of the newest source package that can be had."""
    options = apt_options()
    run("apt-get", *options, "update", "-qq")
    folder = PLACE / "download"
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        for version in versions(options, name):
            command = ["apt-get", *options, "-qq", "source", "--download-only", f"{name}={version}"]
            got = subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
            print(f"{name} {version}: {'downloaded' if got else 'listed, but not there'}", flush=True)
            if got:
                return next(iter(folder.glob(f"{name}_{version.split('-')[0]}.orig.tar.*")))
    sys.exit(f"the mirror has the source of none of {', '.join(NAMES)}; name a source tree with --source")


def unpack(archive: Path) -> Path:
    """Return the source tree."""
    tree = PLACE / "source"
    shutil.rmtree(tree, ignore_errors=True)
    if archive.is_dir():
        shutil.copytree(archive, tree)
    else:
        tree.mkdir()
        run("tar", "--extract", "--file", archive, "--strip-components=1", "--directory", tree)
    return tree


def build(tree: Path, jobs: int) -> Path:
    """Compile and install it; return the interpreter."""
    prefix = PLACE / "python"
    shutil.rmtree(prefix, ignore_errors=True)
    run("./configure", "--quiet", "--disable-gil", f"--prefix={prefix}", cwd=tree, log=PLACE / "configure.log")
    run("make", f"-j{jobs}", "-s", cwd=tree, log=PLACE / "make.log")
    run("make", "-s", "install", cwd=tree, log=PLACE / "install.log")
    return prefix / "bin" / "python3"


def environment(python: Path, name: str, *pins: str) -> Path:
    """Make a virtual environment with the project in it; return its interpreter."""
    folder = PLACE / name
    run(python, "-m", "venv", "--clear", folder)
    inside = folder / "bin" / "python"
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Not the pins of constraints.txt: the newest pydantic may have no wheel for this interpreter, so pip takes one
    # that has.
    run(*pip, "--only-binary", WHEELS_ONLY, "--editable", TOP, *pins)
    return inside


def pinned(python: Path, *names: str) -> list[str]:
    """Return the versions that an environment has of some packages, as requirements."""
    code = "import importlib.metadata as m, sys; print(*(f'{n}=={m.version(n)}' for n in sys.argv[1:]))"
    return subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout.split()


def main() -> None:
    """Build all that the benchmark needs."""
    parser = argparse.ArgumentParser(description="Build a free-threaded CPython and environments for the benchmark.")
    parser.add_argument("--source", type=Path, help="a source tree of CPython, or its archive, to build instead")
    parser.add_argument("--jobs", type=int, default=1, help="how many compilers at a time (1)")
    given = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    if Path("/etc/debian_version").exists():
        run("bash", TOP / ".ci" / "debian", *HEADERS)
    python = build(unpack(given.source or download()), given.jobs)
    free = environment(python, "venv")
    code = "import sys, qbridge, qbridge_memory; print(sys.version, '| lock:', sys._is_gil_enabled())"
    run(free, "-c", code)
    # The same pydantic on both sides: it is a part of the path that is measured.
    environment(Path(sys.executable), "venv-beside", *pinned(free, "pydantic"))
    print(f"built in {PLACE.relative_to(TOP)}; now run benchmarks/free_threading/measure.py")


if __name__ == "__main__":
    main()
