"""Which environments may be started: those that `bench env create` made for this user, in this place.

An environment is code. Its marker carries an HMAC over what it is: its name, its folder and its interpreter with links
resolved, its requirements and versions. The key is a file outside of every store that this user alone can read.

What the seal proves: a folder that came with an archive, a clone or a copy has none that is valid, whatever it holds;
nor has a sealed one that was moved. Ownership alone does not prove that, since unpacked files belong to whoever unpacks
them: it keeps out other users of the machine, who could put files of theirs in the place of sealed ones. What neither
proves: that the packages are benign, or are as pip left them. Whatever runs as this user can change them, and read the
key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from bench.errors import UserError

KEY_BYTES = 32


def seal(folder: Path, requirements: str, versions: Mapping[str, str], key: bytes) -> str:
    """HMAC-SHA256 over an environment's description."""
    path, python = folder.resolve(), (folder / "bin" / "python").resolve()
    described = [folder.name, str(path), str(python), requirements, dict(versions)]
    return hmac.new(key, json.dumps(described, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def is_own(*paths: Path) -> bool:
    """True if this user owns all of `paths` and nobody else may write to them; raises OSError."""
    return all(found.st_uid == os.geteuid() and not found.st_mode & 0o022 for found in (path.stat() for path in paths))


def key() -> bytes | None:
    """The user's key; None if there is none, or if others may know it."""
    try:
        path = _path()
        found = path.read_bytes() if is_own(path) and not path.stat().st_mode & 0o077 else b""
    except (OSError, RuntimeError):
        return None
    return found if len(found) == KEY_BYTES else None


def made_key() -> bytes:
    """The user's key, a new one if there is none; raises UserError if it cannot be kept."""
    try:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f"key-{os.getpid()}")
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    except (OSError, RuntimeError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(
            f"the key that seals environments cannot be kept ({cause}); set XDG_STATE_HOME to a folder of yours"
        ) from None
    if (found := key()) is None:
        raise UserError(f"the key in {str(path)!r} is damaged or not this user's alone; remove it")
    return found


def _path() -> Path:
    """Under XDG_STATE_HOME, which counts if it is absolute; raises RuntimeError if this user has no home."""
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".local" / "state") / "runtimebench" / "key"
