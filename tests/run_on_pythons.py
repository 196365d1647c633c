"""Run the caption tests on every supported Python that is here, besides the one of .venv.

    python tests/run_on_pythons.py

`re`, `html` and `unicodedata` differ between releases of Python down to the third number; captions must not. Each
Python gets the few locked packages that the cleaners and their tests need, in an environment kept in .venv/pythons.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 900.0  # of a command, on a busy machine
SUPPORTED = ("3.11", "3.12")  # requires-python
PACKAGES = ("beautifulsoup4", "ftfy", "hypothesis", "pytest", "pytest-timeout", "pytest-xdist")  # the last two: options
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")  # on PATH it has only what is switched on


def find_pythons(release: str) -> dict[str, str]:
    """Return the Pythons of a release that start: the first of each version on PATH or in pyenv."""
    found: dict[str, str] = {}
    for folder in [*os.get_exec_path(), *sorted(PYENV.glob("versions/*/bin"))]:
        python = shutil.which(f"python{release}", path=folder)
        if python is not None:
            question = [python, "-c", "import platform; print(platform.python_version())"]
            answer = subprocess.run(question, capture_output=True, text=True, timeout=LONGEST_S, check=False)
            if answer.returncode == 0:
                found.setdefault(answer.stdout.strip(), python)
    return found


def run_tests(version: str, python: str) -> bool:
    """Make or refresh the environment, run the tests in it, and say whether all went well."""
    environment = ROOT / ".venv" / "pythons" / version
    uv = [sys.executable, "-m", "uv"]
    to_environment = ["--python", environment, "--constraints", ROOT / "requirements.lock"]
    for command in (
        [*uv, "venv", "--quiet", "--allow-existing", "--python", python, environment],
        [*uv, "pip", "install", "--quiet", *to_environment, *PACKAGES],
    ):
        if subprocess.run(command, timeout=LONGEST_S, check=False).returncode:
            print(f"Python {version}: no environment could be made, see above; the caption tests did not run on it")
            return False
    # Fixtures of other tests import more than is there.
    tests = [environment / "bin" / "python", "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "tests/captions"]
    return subprocess.run(tests, cwd=ROOT, timeout=LONGEST_S, check=False).returncode == 0


def main() -> None:
    """Run the tests on each Python, and exit with 1 if they failed on one."""
    failed = []
    for release in SUPPORTED:
        pythons = find_pythons(release)
        if not pythons:
            print(f"Python {release}: none that starts is on PATH or in pyenv; the caption tests did not run on it")
        for version, python in pythons.items():
            if version != platform.python_version():
                print(f"Python {version} ({python}), caption tests:", flush=True)
                if not run_tests(version, python):
                    failed.append(version)
    if failed:
        sys.exit(f"The caption tests failed on Python {', '.join(failed)}.")


if __name__ == "__main__":
    main()
