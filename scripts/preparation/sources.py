"""The published archives, what they hold, and how they become folders."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from datasets.listing import pictures_in
from engine.runtime import say
from engine.weights.download import MIRROR, download, users_mirror
from scripts.preparation.archives import entries, place, staging_folder
from utils import DataError

GIB = 1 << 30
# What browsers add to the name of a file that they have fetched before: "X (1).zip", "X-1.zip".
RENAMED = re.compile(r"(?i)(?:copy of )?(.+?)(?: - copy)?(?:[ _-]*\([0-9]+\)|-[0-9]+)?")


@dataclass(frozen=True)
class Folder:
    """A folder of pictures that the configurations expect, below the data root."""

    path: str
    count: int

    @property
    def inside(self) -> tuple[str, ...]:
        """How the paths of its pictures end inside an archive: without the first component."""
        return PurePosixPath(self.path).parts[1:]


@dataclass(frozen=True)
class Source:
    """An archive and the folders it fills.

    Attributes:
        site: address of the folder that it is published in.
        max_bytes: what its pictures may have together; more is refused.
        size, sha256: bytes and checksum of the archive, where they are known.
    """

    name: str
    site: str
    folders: tuple[Folder, ...]
    max_bytes: int
    size: int | None = None
    sha256: str | None = None

    def is_named(self, path: Path) -> bool:
        """Whether a file or folder is named like the archive, perhaps renamed by a browser."""
        match = RENAMED.fullmatch(path.resolve().name.split(".")[0])
        return match is not None and match[1].lower() == self.name.split(".")[0].lower()


def _div2k(name: str, size: int | None = None, sha256: str | None = None) -> Source:
    folder = Folder(f"div2k/{name.replace('_X', '/X')}", 800 if "train" in name else 100)
    site = "http://data.vision.ee.ethz.ch/cvl/DIV2K"
    return Source(f"{name}.zip", site, (folder,), 8 * GIB, size, sha256)


DIV2K = {
    "train-hr": _div2k(
        "DIV2K_train_HR",
        3530603713,
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    ),
    "valid-hr": _div2k(
        "DIV2K_valid_HR",
        448993893,
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    ),
    "valid-lr-x2": _div2k(
        "DIV2K_valid_LR_bicubic_X2",
        117763600,
        "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57",
    ),
    "valid-lr-x3": _div2k("DIV2K_valid_LR_bicubic_X3"),
    "valid-lr-x4": _div2k("DIV2K_valid_LR_bicubic_X4"),
    "train-lr-x2": _div2k(
        "DIV2K_train_LR_bicubic_X2",
        925390592,
        "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
    ),
}
# Only the x2 baselines train on ready-made LR pictures, so these come when asked for.
DIV2K_DEFAULT = tuple(part for part in DIV2K if part != "train-lr-x2")

BENCHMARK = Source(
    "benchmark.tar",
    "https://cv.snu.ac.kr/research/EDSR",
    tuple(
        Folder(f"benchmark/{name}/{kind}", count)
        for name, count in (("Set5", 5), ("Set14", 14), ("B100", 100), ("Urban100", 100))
        for kind in ("HR", "LR_bicubic/X2", "LR_bicubic/X3", "LR_bicubic/X4")
    ),
    2 * GIB,
)


def prepare(
    source: Source, root: Path, archive: Path | None = None, mirror: str | None = None
) -> bool:
    """Fill the source's folders below root; False where all of them were whole already.

    Args:
        archive: archive or folder that the user has; downloaded when absent.
        mirror: address of a folder that holds the archive, instead of the published one.

    Raises:
        DataError: the archive can't be had, is broken, or doesn't hold what it should.
    """
    missing = []
    for folder in source.folders:
        if len(pictures_in(root / folder.path)) != folder.count:
            missing.append(folder)
        else:
            say(f"{root / folder.path}: {folder.count} pictures, already there")
    if not missing:
        return False
    fetched = None
    if archive is None:
        url = f"{(mirror or users_mirror() or source.site).rstrip('/')}/{source.name}"
        fetched = root / "downloads" / source.name
        say(f"{source.name}: fetching {url}")
        made = [path for path in fetched.parents if not path.exists()]
        try:
            archive = download(url, fetched, size=source.size, sha256=source.sha256)
        except DataError as error:
            with contextlib.suppress(OSError):  # what came is kept there
                for path in made:
                    path.rmdir()
            raise DataError(
                f"{error}; without a network, give what is on this disk by --archive, or another "
                f"address by --mirror or {MIRROR}"
            ) from error
    say(f"{source.name}: unpacking {archive}")
    top = root / PurePosixPath(missing[0].path).parts[0]
    with staging_folder(top / f".unpacking-{source.name}") as staging:
        _unpack(source, archive, missing, staging)
        for folder in missing:
            _put_in_place(folder, staging, root)
    for folder in missing:
        say(f"{root / folder.path}: {folder.count} pictures")
    if fetched is not None:
        fetched.unlink()
    return True


def held_by(source: Source, folder: Path) -> Source:
    """A source with those of its data sets alone of which a folder has pictures.

    Raises:
        DataError: it has none of them.
    """
    parts = {entry.path.parent.parts for entry in entries(folder, folder) if entry.is_picture}
    names = {
        wanted.inside[0]
        for wanted in source.folders
        if any(part[-len(wanted.inside) :] == wanted.inside for part in parts)
    }
    all_names = [*dict.fromkeys(wanted.inside[0] for wanted in source.folders)]
    missing = ", ".join(name for name in all_names if name not in names)
    if not names:
        raise DataError(f"{folder}: holds none of {missing} (as NAME/HR, NAME/LR_bicubic/X2 ...)")
    if missing:
        say(f"{folder}: without {missing}")
    return replace(source, folders=tuple(f for f in source.folders if f.inside[0] in names))


def find_owned(source: Source, owned: Sequence[Path]) -> Path | None:
    """Which of the user's archives and folders is meant for a source, by its name.

    That is one named like the source's archive, with or without the suffix; or a folder that
    holds such a one; or a folder that holds the source's own folders, as `load/div2k` does.
    """
    for path in owned:
        if source.is_named(path):
            return path
        if not path.is_dir():
            continue
        suffix = PurePosixPath(source.name).suffix
        for inside in sorted(path.iterdir()):  # not what a browser is still fetching, ".zip.part"
            if source.is_named(inside) and (inside.is_dir() or inside.suffix.lower() == suffix):
                return inside
        if all(path.joinpath(*folder.inside).is_dir() for folder in source.folders):
            single = len(source.folders) == 1
            return path.joinpath(*source.folders[0].inside) if single else path
    return None


def _unpack(source: Source, archive: Path, missing: Sequence[Folder], staging: Path) -> None:
    """Put the pictures of the missing folders below staging, and count them."""
    left = source.max_bytes
    for entry in entries(archive, staging / "archive"):
        folder = _folder_of(entry.path, source, missing) if entry.is_picture else None
        if folder is None:
            continue
        target = staging / folder.path / entry.path.name
        if target.exists():
            raise DataError(f"{archive}: two pictures named {entry.path.name} for {folder.path}")
        left -= entry.size
        if left < 0:
            raise DataError(f"{archive}: its pictures need more than {source.max_bytes} bytes")
        place(entry.fetch(), target, staging)
    for folder in missing:
        found = len(pictures_in(staging / folder.path))
        if found != folder.count:
            raise DataError(
                f"{archive}: {found} pictures for {folder.path}, {folder.count} expected"
            )


def _put_in_place(folder: Folder, staging: Path, root: Path) -> None:
    target = root / folder.path
    target.mkdir(parents=True, exist_ok=True)
    for name in pictures_in(staging / folder.path):
        os.replace(staging / folder.path / name, target / name)
    found = len(pictures_in(target))
    if found != folder.count:
        raise DataError(
            f"{target}: {found} pictures, {folder.count} expected; "
            "remove those that are not part of the data set"
        )


def _folder_of(path: PurePosixPath, source: Source, missing: Sequence[Folder]) -> Folder | None:
    """The folder a picture belongs to; archives of a single folder may be laid out anyhow."""
    if len(source.folders) == 1:
        return missing[0]
    for folder in missing:
        if path.parent.parts[-len(folder.inside) :] == folder.inside:
            return folder
    return None
