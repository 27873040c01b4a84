"""Builds the optional C++ library of ``rsmamba_models.ops.native``; the rest is in pyproject.toml.

The library is no Python extension: it has a plain C interface, needs neither Python nor torch
headers and is loaded with ctypes, so one wheel per platform serves every Python version. Without
a C++ compiler the build warns and goes on to a pure Python wheel, where torch does the work.

``python setup.py build_ext --inplace`` builds it into a checkout.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = Path("models/rsmamba_models/ops/csrc")
LIBRARY = "rsmamba_models.ops._native"

# No -ffast-math: it would remove the rounding that exp2 is built on, and the handling of NaN.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-g0"),
    # Python's own flags ask for signed overflow to wrap, which costs the loops 5 % of their time.
    "-fno-wrapv",
    *("-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    # GCC 12 warns about its own AVX-512 headers, hundreds of times.
    *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),
)
# Kernels of their own for each instruction set, in sources that end in its name; the processor
# decides at run time. Where the compiler does not take the flags, a source compiles to nothing.
ISA_FLAGS = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512dq"),
}


class BuildLibrary(build_ext):
    """Compiles each source with its own target flags and links them to one plain library."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library's file, without the Python version that extensions have in their names."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Build the library; a ``CompileError`` is turned into a warning by setuptools."""
        if self.compiler.compiler_type == "msvc":
            raise CompileError("the scan kernels are written for GCC and Clang")
        # What an earlier build left must not be packed if this one fails.
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        objects = [self._compile(source, ext.depends) for source in ext.sources]
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=["-pthread"], target_lang="c++"
        )

    def _compile(self, source: str, depends: list[str]) -> str:
        isa = ISA_FLAGS.get(Path(source).stem.rpartition("_")[2], ())
        if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
            isa = ()
        tries = [(*FLAGS, *isa), FLAGS] if isa else [FLAGS]
        for flags in tries:
            try:
                (built,) = self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    debug=self.debug,
                    extra_postargs=list(flags),
                    depends=depends,
                )
            except CompileError:
                if flags is tries[-1]:
                    raise
            else:
                return str(built)
        raise AssertionError("unreachable: the last try returns or raises")


class PlatformWheel(bdist_wheel):
    """``py3-none-PLATFORM`` with the library, ``py3-none-any`` where it could not be built."""

    def run(self) -> None:
        """Build, look whether the library is there, and pack accordingly."""
        self.run_command("build")
        if not Path(self.get_finalized_command("build_ext").get_ext_fullpath(LIBRARY)).exists():
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """The wheel's tag: the library ties it to a platform, to no Python version or ABI."""
        python, abi, target = super().get_tag()
        return (python, abi, target) if self.root_is_pure else ("py3", "none", target)


setup(
    ext_modules=[
        Extension(
            LIBRARY,
            sources=[path.as_posix() for path in sorted(SOURCES.glob("*.cpp"))],
            depends=[path.as_posix() for path in sorted(SOURCES.glob("*.h"))],
            language="c++",
            optional=True,
        )
    ],
    exclude_package_data={"": ["*.cpp", "*.h"]},
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
