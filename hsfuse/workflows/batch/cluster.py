"""Reach a Dask cluster, and see that all of its workers can do the work before any of it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hsfuse._version import __version__
from hsfuse.errors import InputError, UsageError
from hsfuse.log import get_logger

_log = get_logger(__name__)

_ANSWER_S = 10.0
_SHOWN = 3


def connect(address: str) -> Any:
    """Return a client of the cluster at an address, or of a scheduler file.

    Raises
    ------
    UsageError
        Dask is not installed, or nobody answers within ten seconds.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            "Dask is not installed, so there is no --scheduler.", hint="Install it: pip install 'hsfuse[dask]'."
        ) from error
    by_file = "://" not in address and (address.endswith(".json") or Path(address).exists())
    if by_file and not Path(address).is_file():
        raise UsageError(
            f"There is no scheduler file {address}.", hint="Start it: dask scheduler --scheduler-file FILE."
        )
    where = {"scheduler_file": address} if by_file else {"address": address}
    make: Any = Client
    try:
        return make(**where, timeout=_ANSWER_S, set_as_default=False, name="hsfuse-batch")
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"The scheduler {address} did not answer within {_ANSWER_S:.0f} s.",
            hint="Check that it runs and that this machine reaches its port: dask scheduler prints its address.",
        ) from error


def check_workers(client: Any, paths: Sequence[Path], folder: Path) -> dict[str, dict[str, Any]]:
    """See that every worker can do the work, before any of it starts.

    Parameters
    ----------
    client
        The cluster.
    paths
        Inputs.
    folder
        The batch's folder.

    Returns
    -------
    dict
        What each worker says, by its address; empty while there are none.

    Raises
    ------
    UsageError
        A worker has no hsfuse or another version.
    InputError
        A worker does not see an input or the folder.
    """
    facts: dict[str, dict[str, Any]] = client.run(_probe([str(p) for p in paths], str(folder)))
    ours = _versions()
    for address, found in facts.items():
        theirs = found["versions"]
        if theirs["hsfuse"] != ours["hsfuse"]:
            what = f"hsfuse {theirs['hsfuse']}" if theirs["hsfuse"] else "no hsfuse"
            raise UsageError(
                f"The worker {address} has {what}, this machine has {ours['hsfuse']}.",
                hint="Install the same version on every worker and restart them.",
            )
        different = [name for name in ours if theirs[name] != ours[name]]
        if different:
            pairs = ", ".join(f"{name} {theirs[name]} instead of {ours[name]}" for name in different)
            _log.warning("The worker %s has %s; cubes may differ in the last digit.", address, pairs)
        missing = found["missing"]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise InputError(
                f"The worker {address} does not see {', '.join(missing[:_SHOWN])}{more}.",
                hint="Inputs and the output folder must have the same paths on every machine.",
            )
    if not facts:
        _log.warning("The cluster has no workers yet; scenes start when they join.")
    return facts


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("distributed", "numpy", "torch", "rasterio")
    python = ".".join(platform.python_version_tuple()[:2])
    return {"hsfuse": __version__, "python": python, **{name: version(name) for name in names}}


def _probe(paths: list[str], folder: str) -> Callable[[], dict[str, Any]]:
    """Make a function that workers without hsfuse can run as well: it travels as it is and needs nothing."""

    def probe() -> dict[str, Any]:
        import importlib
        import platform
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path

        found: dict[str, str] = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in ("distributed", "numpy", "torch", "rasterio"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = ""
        try:
            # Not the metadata: an editable installation may be newer than what it was installed as.
            found["hsfuse"] = importlib.import_module("hsfuse._version").__version__
        except Exception:
            found["hsfuse"] = ""
        missing = [path for path in (*paths, folder) if not Path(path).exists()]
        return {"versions": found, "missing": missing}

    return probe
