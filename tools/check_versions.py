"""Run the quick tests on the lowest or the newest versions that pyproject.toml allows, in a fresh virtual environment.

    python3.10 tools/check_versions.py lowest
    python3.13 tools/check_versions.py newest -- tests/interventions

The Python that runs this script is the one that is tested. What follows `--` goes to pytest. The environment is
temporary and takes about 6 GB; it is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lowest(pyproject: str) -> list[str]:
    """Return a pin NAME==VERSION for each lower bound of the dependencies and of the `test` extra."""
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", pyproject, re.DOTALL | re.MULTILINE)
    extra = re.search(r"^test = \[(.*?)\]", pyproject, re.MULTILINE)
    assert dependencies
    assert extra
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', dependencies[1] + extra[1])]


def main() -> int:
    """Install, print the versions, and run the tests; the exit code is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", choices=("lowest", "newest"))
    parser.add_argument("tests", nargs="*", help="arguments for pytest, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        command = [python, "-m", "pip", "install", "--quiet", f"{ROOT}[test]"]
        if arguments.versions == "lowest":
            pins = Path(folder) / "lowest.txt"
            pins.write_text("\n".join(lowest((ROOT / "pyproject.toml").read_text())) + "\n")
            command += ["--constraint", pins]
        subprocess.run(command, check=True)
        subprocess.run([python, "-m", "pip", "list"], check=True)
        environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run([python.parent / "pytest", *arguments.tests], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
