"""Run the tutorial as it is written, and the examples of the public functions, on the pair of a demonstration.

Blocks marked ``sh`` are run by bash, blocks marked ``python`` one after the other in one program, all in a folder that
has ``prisma.he5`` and ``s2.SAFE``. Then the docstrings' examples run there. The first failure ends it.

Usage: python tests/run_tutorial.py DEMO_FOLDER      (as `hsfuse demo DEMO_FOLDER` leaves it)
"""

from __future__ import annotations

import contextlib
import doctest
import inspect
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every marked block, in order."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_tutorial(text: str) -> int:
    """Run all blocks in the present folder; return how many there were."""
    names: dict[str, Any] = {}
    found = blocks(text)
    for number, (language, code) in enumerate(found, start=1):
        start = time.monotonic()
        if language == "sh":
            environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, env=environment)
        else:
            exec(compile(code, f"{TUTORIAL.name}, block {number}", "exec"), names)
        print(f"block {number} of {len(found)} ({language}): {time.monotonic() - start:.0f} s", flush=True)
    return len(found)


def run_examples() -> tuple[int, int]:
    """Run the examples of the public functions; return how many were tried and how many failed."""
    import hsfuse

    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for name in dir(hsfuse):
        thing = getattr(hsfuse, name)
        if not inspect.isfunction(thing):
            continue
        examples = doctest.DocTestParser().get_doctest(thing.__doc__ or "", {}, f"hsfuse.{name}", None, None)
        if not examples.examples:
            raise SystemExit(f"hsfuse.{name} has no example.")
        runner.run(examples)
    return runner.tries, runner.failures


def main(demo: Path) -> None:
    """Link the demonstration's products under the tutorial's names, and run everything beside them."""
    import matplotlib as mpl

    mpl.use("agg")
    products = demo.resolve() / "products"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("prisma.he5").symlink_to(next(products.glob("*.he5")))
        Path("s2.SAFE").symlink_to(next(products.glob("*.SAFE")))
        count = run_tutorial(TUTORIAL.read_text(encoding="utf-8"))
        tried, failed = run_examples()
    print(f"{count} blocks of the tutorial and {tried} examples, {failed} failed")
    if failed or not count:
        sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
