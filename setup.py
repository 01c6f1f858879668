"""Builds the native part: C++ and CUDA op libraries, and a small module that says how.

What cannot be built is left out and the reason goes into deitsec/native/build.json, because pip
hides build output. DEITSEC_BUILD_CPP and DEITSEC_BUILD_CUDA: 1 turns that into an error, 0 skips
the part. CXX and CUDACXX name the compilers.
"""

import datetime
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
OUTPUTS = {
    "cpp": "libdeitsec_cpu.so",
    "cuda": "libdeitsec_cuda.so",
    "buildinfo": "_buildinfo" + EXTENSION_SUFFIXES[0],
}
SOURCES = {
    "cpp": sorted(CSRC.glob("cpu/*.cpp")),
    "cuda": sorted(CSRC.glob("cuda/*.cu")),
    "buildinfo": [CSRC / "buildinfo.cpp"],
}
# Stable ABI of PyTorch 2.10: the libraries run on every later version and any Python.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020A000000000000"
CXX_FLAGS = "-std=c++20 -O3 -fPIC -Wall -fvisibility=hidden -fopenmp-simd -fno-math-errno"
# Only the losses may use fused multiply-add (their exp took 0.22 ns without, 0.15 ns with it, on a
# core of an AMD EPYC Zen 5): they are held to an error bound, the other ops to PyTorch's bits.
CONTRACTED = ("cross_entropy_loss", "distillation_rows")
GENCODES = ("compute_80,code=sm_80", "compute_90,code=sm_90", "compute_90,code=compute_90")
NVCC_FLAGS = (
    "-std=c++20 -O3 --threads 2 -DUSE_CUDA -Xcompiler -fPIC,-fvisibility=hidden "
    + " ".join(f"-gencode arch={code}" for code in GENCODES)
)


class NotBuiltError(Exception):
    """A part cannot be built here; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Torch:
    """An installed PyTorch, read without importing it."""

    home: Path
    version: str
    cuda: str | None

    @classmethod
    def find(cls) -> "Torch":
        """Locate the PyTorch that the compilers should use."""
        spec = find_spec("torch")
        if spec is None or not spec.submodule_search_locations:
            raise NotBuiltError("PyTorch is not installed where this was built")
        home = Path(spec.submodule_search_locations[0])
        text = (home / "version.py").read_text()
        version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
        cuda = re.search(r"^cuda\b.* = '([^']+)'", text, re.MULTILINE)
        assert version is not None, f"no __version__ in {home / 'version.py'}"
        return cls(home=home, version=version[1], cuda=cuda[1] if cuda else None)


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """A CUDA compiler and the toolkit it belongs to."""

    nvcc: str
    home: Path
    version: str

    @classmethod
    def find(cls, torch: Torch) -> "Cuda":
        """Locate nvcc; it may be a wrapper script, so it is asked for its home."""
        if torch.cuda is None:
            raise NotBuiltError(f"PyTorch {torch.version} is a CPU build")
        nvcc = find_program("CUDACXX", "nvcc")
        dry_run = run_text([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull])
        top = re.search(r"^#\$ TOP=(.+)$", dry_run, re.MULTILINE)
        if top is None:
            raise NotBuiltError(f"{nvcc} --dryrun does not say where its toolkit is")
        version = re.search(r"release [\d.]+, V([\d.]+)", run_text([nvcc, "--version"]))
        home = Path(top[1]).resolve()
        return cls(nvcc=nvcc, home=home, version=version[1] if version else "unknown")


def find_program(variable: str, *names: str) -> str:
    """Full path of the program that the variable names, else of the first on PATH."""
    wanted = [os.environ[variable]] if os.environ.get(variable) else list(names)
    beside_python = str(Path(sys.executable).parent)
    for name in wanted:
        path = shutil.which(name) or shutil.which(name, path=beside_python)
        if path is not None:
            return path
    raise NotBuiltError(f"no {' or '.join(wanted)} was found (set {variable})")


def run_text(command: list[str]) -> str:
    """What a program prints, both streams."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return result.stdout


def switch(part: str) -> str:
    """Value of the variable that rules a part: `1` demanded, `0` off, or empty."""
    return os.environ.get({"cpp": "DEITSEC_BUILD_CPP", "cuda": "DEITSEC_BUILD_CUDA"}[part], "")


class Build:
    """One build: what it found, the ninja file made of that, and what came out."""

    def __init__(self, destination: Path, scratch: Path) -> None:
        self.destination = destination
        self.scratch = scratch
        self.not_built: dict[str, str] = {}
        self.facts: dict[str, object] = {}
        self.ninja = [f"cxx_flags = {CXX_FLAGS}", f"nvcc_flags = {NVCC_FLAGS}"]

    def run(self) -> None:
        """Replace the old outputs by new ones and record what is missing."""
        for old in [*self.destination.glob("*.so"), self.destination / "build.json"]:
            old.unlink(missing_ok=True)
        self.destination.mkdir(parents=True, exist_ok=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        try:
            self.plan()
        except NotBuiltError as error:
            self.not_built = {part: str(error) for part in OUTPUTS}
        if len(self.not_built) < len(OUTPUTS):
            self.compile()
        self.not_built.pop("buildinfo", None)
        for part, reason in self.not_built.items():
            if switch(part) == "1":
                raise SystemExit(f"deitsec: the {part} ops were demanded, but {reason}")
            print(f"deitsec: without the {part} ops: {reason}", file=sys.stderr)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"not_built": self.not_built, **self.facts, "time": now}
        (self.destination / "build.json").write_text(json.dumps(record, indent=2) + "\n")

    def plan(self) -> None:
        """Find the tools and write one ninja file for everything that they can build."""
        torch = Torch.find()
        self.facts["torch"] = torch.version
        compiler = find_program("CXX", "c++", "g++", "clang++")
        self.facts["compiler"] = run_text([compiler, "--version"]).partition("\n")[0]
        self.facts["flags"] = CXX_FLAGS
        includes = [CSRC, torch.home / "include", sysconfig.get_paths()["include"]]
        libraries = f"-L{torch.home / 'lib'} -ltorch_cpu"
        self.rule("cxx", f"{compiler} $cxx_flags $contract {TORCH_TARGET} -MMD -MF $out.d")
        self.ninja += ["rule link", f"  command = {compiler} -shared $in -o $out $libraries"]
        self.part("cpp", "cxx", includes, libraries)
        try:
            cuda = Cuda.find(torch)
        except NotBuiltError as error:
            self.not_built["cuda"] = str(error)
        else:
            self.facts["nvcc"], self.facts["cuda_arch_list"] = cuda.version, GENCODES
            self.rule(
                "nvcc", f"{cuda.nvcc} $nvcc_flags {TORCH_TARGET} -ccbin {compiler} -MD -MF $out.d"
            )
            runtime = f"-L{cuda.home / 'lib64'} -L{cuda.home / 'lib'} -lcudart_static"
            device = f"-Wl,--no-as-needed -ltorch_cuda -Wl,--as-needed {runtime}"
            self.part("cuda", "nvcc", includes, f"{libraries} {device} -lrt -lpthread -ldl")
        pybind11 = find_spec("pybind11")
        if pybind11 is None or pybind11.origin is None:
            self.not_built["buildinfo"] = "pybind11 is not installed where this was built"
        else:
            facts = json.dumps(self.facts)
            (self.scratch / "build_facts.h").write_text(f'R"json({facts})json"\n')
            headers = Path(pybind11.origin).parent / "include"
            self.part("buildinfo", "cxx", [*includes, headers, self.scratch], "")

    def rule(self, name: str, command: str) -> None:
        """A ninja rule that compiles one source and tracks the headers it read."""
        self.ninja += [
            f"rule {name}",
            f"  command = {command} $includes -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
        ]

    def part(self, part: str, rule: str, includes: Sequence[object], libraries: str) -> None:
        """The ninja statements for one library, unless it is switched off."""
        if part != "buildinfo" and switch(part) == "0":
            self.not_built[part] = f"it was switched off by DEITSEC_BUILD_{part.upper()}=0"
            return
        objects: list[Path] = []
        for source in SOURCES[part]:
            objects.append(self.scratch / f"{part}_{source.stem}.o")
            self.ninja += [
                f"build {ninja_path(objects[-1])}: {rule} {ninja_path(source)}",
                "  includes = " + " ".join(f"-I{shlex.quote(str(path))}" for path in includes),
                f"  contract = -ffp-contract={'fast' if source.stem in CONTRACTED else 'off'}",
            ]
        output = ninja_path(self.destination / OUTPUTS[part])
        self.ninja.append(f"build {output}: link {' '.join(map(ninja_path, objects))}")
        self.ninja.append(f"  libraries = {libraries}")

    def compile(self) -> None:
        """Run ninja; a part that fails is recorded with the end of the log, the others go on."""
        try:
            ninja = find_program("NINJA", "ninja")
        except NotBuiltError as error:
            self.not_built = {part: str(error) for part in OUTPUTS}
            return
        (self.scratch / "build.ninja").write_text("\n".join(self.ninja) + "\n")
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        log = run_text([ninja, "-C", str(self.scratch), "-k", "0", *jobs])
        print(log)
        for part, output in OUTPUTS.items():
            if part not in self.not_built and not (self.destination / output).exists():
                errors = [line for line in log.splitlines() if "error" in line.lower()]
                self.not_built[part] = f"the compiler failed: {(errors or [log])[0]}"


def ninja_path(path: Path) -> str:
    """A path as ninja wants it."""
    return re.sub(r"([ :$])", r"$\1", str(path))


class BuildNative(build_ext):
    """setuptools' build_ext with the compiling done by `Build`."""

    def run(self) -> None:
        """Build into the package of the source tree (editable) or of the build tree."""
        package = ROOT if self.inplace else Path(self.build_lib).resolve()
        Build(package / "deitsec" / "native", Path(self.build_temp).resolve()).run()

    def get_outputs(self) -> list[str]:
        """The files that were built."""
        native = Path(self.build_lib) / "deitsec" / "native"
        return [str(path) for path in (*native.glob("*.so"), *native.glob("build.json"))]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is copied back: an editable build is made in place."""
        return {}


if __name__ == "__main__":
    setup(
        # the name makes setuptools run build_ext and tag the wheel with Python and platform
        ext_modules=[Extension("deitsec.native._buildinfo", sources=["csrc/buildinfo.cpp"])],
        cmdclass={"build_ext": BuildNative},
    )
