"""The package `liif`: from a wheel, outside the checkout, beside a caller's own module names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import liif
from datasets.images import write_rgb
from engine.render import ContinuousImage

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["train_liif.py", "test.py", "demo.py", "scripts/prepare_data.py", "scripts/export.py"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of the working tree was installed to."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    hidden = shutil.ignore_patterns(".*", "__pycache__", "tests", "save", "load", "build")
    shutil.copytree(ROOT, source / "liif", ignore=hidden)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheels = source / "wheels"
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source / "liif"]
    subprocess.run([*pip, *build], check=True, timeout=300)
    wheel = next(wheels.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def run(installed: Path, folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """A command with the installed package, and not the checkout, on the path."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_nothing_but_liif_is_added_to_the_path(installed: Path) -> None:
    found = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert found == {"liif", "bin"}
    commands = {path.name for path in (installed / "bin").iterdir()}
    assert {"liif-train", "liif-test", "liif-demo"} <= commands
    page = Path("engine/render/viewer.html")
    assert (installed / "liif/tree" / page).read_bytes() == (ROOT / page).read_bytes()


@pytest.mark.slow
def test_the_installed_package_renders_what_the_checkout_does(
    installed: Path, tmp_path: Path
) -> None:
    pixels = torch.randint(0, 256, (9, 12, 3), dtype=torch.uint8).numpy()
    write_rgb(tmp_path / "photo.png", pixels)
    (tmp_path / "utils.py").write_text("name = 'the caller'\n")
    (tmp_path / "use.py").write_text(
        "import torch, utils\n"
        "from liif import ContinuousImage\n"
        "photo = ContinuousImage.represent('photo.png', device='cpu')\n"
        "torch.save(photo.render(20, 31), 'render.pt')\n"
        "assert utils.name == 'the caller'\n"
        "import liif; print(liif.TREE)\n"
    )
    done = run(installed, tmp_path, sys.executable, "use.py")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == (installed / "liif" / "tree").resolve()
    expected = ContinuousImage.represent(tmp_path / "photo.png", device="cpu").render(20, 31)
    assert torch.equal(torch.load(tmp_path / "render.pt"), expected)


@pytest.mark.slow
def test_the_three_commands_run_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    """With installed configurations; data and runs are below the current folder."""
    command = installed / "bin"
    prepare = installed / "liif" / "tree" / "scripts" / "prepare_data.py"
    sample = run(installed, tmp_path, sys.executable, prepare, "sample")
    assert sample.returncode == 0, sample.stderr
    train = run(
        installed,
        tmp_path,
        *(command / "liif-train", "--config", "configs/quickstart.yaml", "--name", "run", "--set"),
        *("epoch_max=1", "precision=fp32", "epoch_val=1", "train_dataset.dataset.args.repeat=1"),
        *("val_dataset.dataset.args.repeat=1", "num_workers=0"),
    )
    assert train.returncode == 0, train.stderr
    model = tmp_path / "save/run/epoch-last.pth"
    test = run(
        installed,
        tmp_path,
        *(command / "liif-test", "--suite", "load/sample/valid", "--scales", "4", "--lr", "pil"),
        *("--model", model, "--metrics", "psnr"),
    )
    assert test.returncode == 0, test.stderr
    assert "epoch-last" in test.stdout
    photo = tmp_path / "load/sample/valid/astronaut.png"
    demo = run(
        installed, tmp_path, command / "liif-demo", "--input", photo, "--resolution", "20,30"
    )
    assert demo.returncode == 0, demo.stderr
    assert (tmp_path / "output.png").is_file()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_package_is_one_line(script: str, tmp_path: Path) -> None:
    """In a Python that has none of them."""
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / script), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: numpy, torch, ")
    assert "source .venv/bin/activate" in done.stderr


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="liif"):
        liif.no_such_name  # noqa: B018
