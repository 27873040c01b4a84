"""Building the native library: with a compiler, without one, and under the sanitizers."""

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rsmamba_models.ops import native

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("pip")

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "models/rsmamba_models/ops/csrc"
COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
ARM_COMPILER = shutil.which("aarch64-linux-gnu-g++")
ARM_EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on the path")

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build a wheel of a small project with this repository's setup.py and sources."""

    def run(**environment: str) -> Path:
        project = tmp_path / "project"
        package = project / "models/rsmamba_models"
        shutil.copytree(CSRC, package / "ops/csrc")
        for folder in (package, package / "ops"):
            (folder / "__init__.py").touch()
        shutil.copy(ROOT / "setup.py", project)
        (project / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools>=77"]\n'
            'build-backend = "setuptools.build_meta"\n'
            '[project]\nname = "probe"\nversion = "1"\n'
            '[tool.setuptools]\npackage-dir = {rsmamba_models = "models/rsmamba_models"}\n'
            'packages = ["rsmamba_models", "rsmamba_models.ops"]\n'
        )
        command = [sys.executable, "-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps"]
        done = subprocess.run(
            [*command, "--no-index", "-v", "-w", str(tmp_path / "wheels")],
            cwd=project,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (project / "log.txt").write_text(done.stdout + done.stderr)
        (wheel,) = (tmp_path / "wheels").glob("*.whl")
        return wheel

    return run


@needs_compiler
def test_a_wheel_with_the_library_is_for_a_platform_and_any_python(
    build: Build, tmp_path: Path
) -> None:
    wheel = build()
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith((".so", ".cpp", ".h"))]
        assert names == ["rsmamba_models/ops/_native.so"]
        library = ctypes.CDLL(archive.extract(names[0], tmp_path))
    assert library.rsmamba_has_isa(0) == 1


def test_without_a_compiler_the_wheel_is_pure_python(build: Build) -> None:
    wheel = build(CC="/nonexistent", CXX="/nonexistent")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    log = (wheel.parents[1] / "project/log.txt").read_text()
    assert 'building extension "rsmamba_models.ops._native" failed' in log


@pytest.fixture
def library_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where native.py looks for its library during the test: nothing is there yet."""
    native._library.cache_clear()
    monkeypatch.setattr(native, "_LIBRARY", tmp_path / "_native.so")
    yield tmp_path / "_native.so"
    native._library.cache_clear()


def test_an_absent_library_is_explained(library_file: Path) -> None:
    assert not native.is_available()
    assert "not built" in native.why_not()


def test_a_broken_library_is_explained(library_file: Path) -> None:
    library_file.write_bytes(b"no library")
    assert "cannot be loaded" in native.why_not()


@needs_compiler
def test_a_library_of_another_interface_is_refused(library_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "old.cpp"
    source.write_text('extern "C" int rsmamba_interface_version() { return 0; }')
    subprocess.run(
        [str(COMPILER), "-shared", "-fPIC", str(source), "-o", str(library_file)], check=True
    )
    assert "interface 0" in native.why_not()


def build_driver(folder: Path, *flags: str) -> Path:
    """Compile native_driver.cpp with all kernels under ``flags``; skip what this compiler lacks."""
    assert COMPILER is not None
    common = [COMPILER, "-O2", "-g", "-std=c++17", "-pthread", f"-I{CSRC}", *flags]
    x86 = os.uname().machine in ("x86_64", "amd64")
    own = {
        "kernel_avx2": ["-mavx2", "-mfma"],
        "kernel_avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512dq"],
    }
    objects = []
    for source in (*sorted(CSRC.glob("*.cpp")), Path(__file__).with_name("native_driver.cpp")):
        target = folder / f"{source.stem}.o"
        isa = own.get(source.stem, []) if x86 else []
        subprocess.run([*common, *isa, "-c", str(source), "-o", str(target)], check=True)
        objects.append(str(target))
    program = folder / "driver"
    linked = subprocess.run([*common, *objects, "-o", str(program)], check=False)
    if linked.returncode:
        pytest.skip(f"the compiler cannot link with {' '.join(flags)}")
    return program


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ("-fsanitize=thread",)],
    ids=["address", "thread"],
)
def test_the_kernels_are_clean_under_sanitizers(tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = build_driver(tmp_path, *flags)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")


@pytest.mark.slow
@pytest.mark.skipif(
    not (ARM_COMPILER and ARM_EMULATOR), reason="no aarch64 compiler and emulator on the path"
)
@pytest.mark.parametrize("driver", ["native_driver.cpp", "neighborhood_driver.cpp"])
def test_the_kernels_are_right_on_arm(tmp_path: Path, driver: str) -> None:
    program = tmp_path / "driver"
    sources = [*sorted(CSRC.glob("*.cpp")), Path(__file__).with_name(driver)]
    command = [ARM_COMPILER, "-O2", "-std=c++17", "-static", "-pthread", f"-I{CSRC}", *sources]
    subprocess.run([*command, "-o", program], check=True)
    done = subprocess.run([ARM_EMULATOR, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")


@needs_compiler
@pytest.mark.parametrize("flags", [(), ("-fsanitize=thread",)], ids=["plain", "thread"])
def test_a_helper_without_a_core_is_soon_left_alone(tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = tmp_path / "pool"
    source = Path(__file__).with_name("pool_driver.cpp")
    command = [str(COMPILER), "-O1", "-g", "-std=c++17", "-pthread", f"-I{CSRC}", *flags]
    if subprocess.run([*command, str(source), "-o", str(program)], check=False).returncode:
        pytest.skip(f"the compiler cannot link with {' '.join(flags)}")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
