"""Which files of a folder are pictures, in which order, and which of two folders are pairs."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from utils import DataError, natural_key

from .files import file_errors
from .images import SUFFIXES, loader_of_file
from .known import how_to_get

# What file managers and network disks leave behind; hidden files are passed over as well.
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin")
CACHE_PREFIX = "_bin_"  # of the folders where data sets cache pixels
# What tells low from high resolution at the end of a name: baby_LR, babyx2, baby_SRF_2_HR.
ENDING = re.compile(
    r"(x[0-9]+(?:\.[0-9]+)?[a-z]?|srf[\W_]*[0-9]+|lr(?:bi|bd|dn)?[0-9]*|[hs]r|gt|bicubic)[\s_.-]*$"
)
RESOLUTIONS = ("lr", "hr", "sr", "gt")
# What programs add to the names of their results: the last word of baby_x2_EDSR, no number.
LAST_WORD = re.compile(r"[\W_]+([^\W_]*[^\W_0-9][^\W_]*)[\W_]*$")
WORD = re.compile(r"[0-9]+|[^\W0-9_]+|[^\w\s.-]")

Key = tuple[tuple[int, int | str], ...]


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it: a leading ~ stands for the home folder."""
    return Path(os.path.expanduser(path))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none that a user has put there as a picture."""
    return name.startswith((".", "__MACOSX")) or name.lower() in LITTER


def list_pictures(
    folder: Path,
    recursive: bool = False,
    option: str = "",
    others_too: Callable[[Path], bool] | None = None,
) -> list[str]:
    """Names of a folder's pictures, in natural order.

    A picture is a file with the ending of one, or that starts as one. Hidden files and folders are
    passed over; files that are no pictures too, in one line to standard error.

    Args:
        recursive: also the pictures of subfolders, named from `folder` ("trip/beach/1.jpg"), a
            folder's own before those of its subfolders. Links are followed, to each folder once.
        option: what makes the caller look into subfolders, for the message.
        others_too: says which other files are listed as well, such as videos.

    Raises:
        DataError: no such folder, one that can't be read, or one without pictures.
    """
    pictures, others, folders = scan_tree(folder) if recursive else scan(folder)
    if others_too is not None:
        more = [name for name in others if others_too(folder / name)]
        pictures, others = pictures + more, [name for name in others if name not in set(more)]
    if not pictures:
        hint = f", only other files ({', '.join(others[:4])})" if others else ""
        if folders:
            use = f"; {option} reads them too" if option and not recursive else ""
            hint = f", only folders ({', '.join(folders[:4])}){use}"
        raise DataError(f"{folder}: no images{hint}{'' if hint else how_to_get(folder)}")
    report_left_out(folder, others, len(pictures))
    return sort_names(pictures)


def report_left_out(place: str | Path, others: Sequence[str], pictures: int) -> None:
    """Say in one line that files among so many pictures are none; the first of several processes.

    Args:
        place: the folder or pattern that they were found by.
        others: their names.
    """
    if others and os.environ.get("RANK", "0") == "0":
        print(
            f"{place}: {len(others)} of {len(others) + pictures} files left out, "
            f"for they are no images (the first: {others[0]!r})",
            file=sys.stderr,
        )


def pictures_in(folder: Path) -> list[str]:
    """Names of a folder's pictures, in no order; none where there is no folder."""
    return scan(folder)[0] if folder.is_dir() else []


def scan(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Names of a folder's pictures, of its other files, and of its folders; hidden ones left out.

    Raises:
        DataError: no such folder, or one that can't be read.
    """
    if folder.is_file():
        raise DataError(f"{folder}: a file, not a folder")
    if not os.path.lexists(folder):
        raise DataError(f"{folder}: no such folder{how_to_get(folder)}")
    pictures, others, folders = [], [], []
    with file_errors(folder, "read"), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if is_hidden(entry.name):
                continue
            if os.path.isdir(entry.path):
                folders.append(entry.name)
            elif is_picture(Path(entry.path)):
                pictures.append(entry.name)
            else:
                others.append(entry.name)
    return pictures, others, folders


def scan_tree(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """As `scan`, with what subfolders hold, named from `folder`; caches of pixels left out."""
    pictures: list[str] = []
    others: list[str] = []
    folders: list[str] = []
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        place = os.path.realpath(folder / inside)
        if place in seen:  # a link leads back, or here by another way
            continue
        seen.add(place)
        found = scan(folder / inside)
        for names, new in zip((pictures, others, folders), found, strict=True):
            names += [os.path.join(inside, name) for name in new]
        below = [name for name in found[2] if not name.startswith(CACHE_PREFIX)]
        waiting += [os.path.join(inside, name) for name in reversed(below)]
    return pictures, others, folders


def is_picture(path: Path) -> bool:
    """Whether a path has the ending of a picture or the content of one; pipes are none.

    One that is named like a picture and can't be read counts: reading it says what is wrong.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        return False
    return path.name.lower().endswith(SUFFIXES) or loader_of_file(path) is not None


def sort_names(names: Sequence[str]) -> list[str]:
    """Natural order, without the scale where it ends every name: "ax2", "abx2" as "a", "ab".

    Names with folders ("trip/1.jpg") go folder by folder, those without first.
    """
    stems = [Path(name).stem for name in names]
    endings = {match.group() if (match := re.search(r"x[0-9.]+$", s)) else "" for s in stems}
    cut = len(endings.pop()) if len(endings) == 1 else 0
    keys = {
        name: (folder_key(name), natural_key(stem[: len(stem) - cut]), name)
        for name, stem in zip(names, stems, strict=True)
    }
    return sorted(names, key=keys.__getitem__)


def folder_key(name: str) -> list[list[tuple[int, int | str]]]:
    """Sort key of the folders in a name."""
    return [natural_key(part) for part in Path(name).parent.parts]


def match_pairs(low: Sequence[Path], high: Sequence[Path]) -> list[Path]:
    """The pictures of one folder, in the order of their partners in another.

    Partners have the same name but for its case, leading zeros, a scale or resolution at the end
    ("x2", "_LR", "_SRF_2_HR"), and words that all names of a folder begin or end with.

    Raises:
        DataError: other numbers of pictures, or names that don't correspond.
    """
    if len(low) != len(high):
        raise DataError(
            f"{low[0].parent} has {len(low)} images and {high[0].parent} has {len(high)}; "
            "pairs need as many in both"
        )
    for ignore_affixes in (False, True):
        keys = [name_keys([path.name for path in side], ignore_affixes) for side in (low, high)]
        ordered = [sorted(range(len(side)), key=side.__getitem__) for side in keys]
        pairs = list(zip(*ordered, strict=True))
        differing = [(i, j) for i, j in pairs if keys[0][i] != keys[1][j]]
        if not differing:
            partners = {j: low[i] for i, j in pairs}
            return [partners[j] for j in range(len(high))]
        if set(keys[0]) & set(keys[1]):
            break  # some names are the same, so the others have no reason to differ
    i, j = differing[0]
    raise DataError(
        f"{low[i]} and {high[j]}: no pair by their names; allowed: the same names, but for case, "
        "a scale that all names of a folder end with, and words that they begin or end with"
    )


def match_some(found: Sequence[Path], wanted: Sequence[Path]) -> list[Path]:
    """The one of `found` for each of `wanted`, by their names as in `match_pairs`.

    Words that all names of `found` end with are no part of them: baby_x2_EDSR is baby.

    Raises:
        DataError: some have none, or several.
    """
    folder, fewest = found[0].parent, list(wanted)
    stems: list[str] | None = [path.stem for path in found]
    while stems is not None:
        for ignore_affixes in (False, True):
            keys = name_keys([f"{stem}.png" for stem in stems], ignore_affixes)
            others = name_keys([path.name for path in wanted], ignore_affixes)
            missing = [path for key, path in zip(others, wanted, strict=True) if key not in keys]
            if not missing:
                if any(keys.count(key) > 1 or others.count(key) > 1 for key in others):
                    raise DataError(f"{folder}: pictures of {wanted[0].parent} not told apart")
                return [found[keys.index(key)] for key in others]
            fewest = min(fewest, missing, key=len)
        stems = without_ending(stems, LAST_WORD) if len(stems) > 1 else None
    raise DataError(
        f"{folder}: {len(fewest)} of {len(wanted)} pictures are missing, the first that of "
        f"{fewest[0]}"
    )


def name_keys(names: Sequence[str], ignore_affixes: bool) -> list[Key]:
    """What must be equal in the names of a pair: their words and numbers.

    Args:
        ignore_affixes: leave out the words, not the numbers, that all names begin or end with.
    """
    stems = [unicodedata.normalize("NFC", Path(name).stem).casefold() for name in names]
    while (shorter := without_ending(stems, ENDING)) is not None:
        stems = shorter
    words = [WORD.findall(stem) for stem in stems]
    if ignore_affixes:
        words = [[word for word in row if word not in RESOLUTIONS] for row in words]
        for place in (0, -1):
            while len(words) > 1 and all(words) and len({row[place] for row in words}) == 1:
                if words[0][place].isdecimal():
                    break
                for row in words:
                    del row[place]
    return [tuple((0, int(w)) if w.isdecimal() else (1, w) for w in row) for row in words]


def without_ending(stems: Sequence[str], pattern: re.Pattern[str]) -> list[str] | None:
    """Names without what all of them end with by a pattern; None where they don't."""
    matches = [match for stem in stems if (match := pattern.search(stem)) and match.start()]
    if len(matches) < len(stems) or len({match[1] for match in matches}) != 1:
        return None
    return [match.string[: match.start()] for match in matches]
