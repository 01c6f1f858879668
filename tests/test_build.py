"""The build: what it packs, how it does without a compiler, and what nvcc makes of the kernels."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
BUILD_TOOLS = [name for name in ("setuptools", "torch") if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists() or bool(BUILD_TOOLS),
    reason=f"needs the source tree and setuptools; missing: {BUILD_TOOLS}",
)


@pytest.fixture(scope="module")
def setup_module() -> ModuleType:
    """setup.py as a module; it builds nothing when imported."""
    spec = importlib.util.spec_from_file_location("deitsec_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """A copy of what git would have, without anything built."""
    ignore = shutil.ignore_patterns(".*", "build", "dist", "*.so", "*.egg-info", "__pycache__")
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=ignore)
    (tree / "deitsec" / "native" / "build.json").unlink(missing_ok=True)
    return tree


def run_setup(tree: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DEITSEC_")} | variables
    command = [sys.executable, "setup.py", "-q", *arguments]
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def test_package_list_equals_the_folders() -> None:
    """Packages are listed by hand, because discovery breaks editable installs of kernels/."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "deitsec").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert set(settings["packages"]) == folders | {"deitsec.kernels"}
    assert settings["package-dir"]["deitsec.kernels"] == "kernels"


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("/nonexistent/c++", "no /nonexistent/c++ was found"), ("false", "the compiler failed")],
)
def test_without_a_working_compiler_it_says_why_and_goes_on(
    source_tree: Path, compiler: str, reason: str
) -> None:
    native = source_tree / "out" / "deitsec" / "native"
    native.mkdir(parents=True)
    (native / "libdeitsec_cpu.so").write_text("left from an older build")
    build = ("build_ext", "--build-lib=out", "--build-temp=scratch")
    result = run_setup(source_tree, *build, CXX=compiler)
    assert result.returncode == 0, result.stderr
    assert "deitsec: without the cpp ops" in result.stderr
    not_built = json.loads((native / "build.json").read_text())["not_built"]
    assert reason in not_built["cpp"]
    assert set(not_built) == {"cpp", "cuda"}
    assert not list(native.glob("*.so")), "a stale library would be shipped"


@pytest.mark.parametrize("part", ["cpp", "cuda"])
def test_demanded_part_that_cannot_be_built_is_an_error(source_tree: Path, part: str) -> None:
    build = ("build_ext", "--build-lib=out", "--build-temp=scratch")
    demand = {f"DEITSEC_BUILD_{part.upper()}": "1"}
    result = run_setup(source_tree, *build, CXX="/nonexistent/c++", **demand)
    assert result.returncode != 0
    assert f"the {part} ops were demanded, but no /nonexistent/c++ was found" in result.stderr


def test_switched_off_parts_are_left_out(source_tree: Path) -> None:
    build = ("build_ext", "--build-lib=out", "--build-temp=scratch")
    result = run_setup(source_tree, *build, DEITSEC_BUILD_CPP="0", DEITSEC_BUILD_CUDA="0")
    assert result.returncode == 0, result.stderr
    record = json.loads((source_tree / "out/deitsec/native/build.json").read_text())
    assert "DEITSEC_BUILD_CPP=0" in record["not_built"]["cpp"]


def test_source_archive_holds_all_that_a_build_needs(source_tree: Path) -> None:
    (source_tree / "deitsec" / "native" / "libdeitsec_cpu.so").write_text("built in place")
    result = run_setup(source_tree, "sdist", "--formats=gztar")
    assert result.returncode == 0, result.stderr
    (archive,) = (source_tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    wanted = [
        path.relative_to(source_tree).as_posix()
        for folder in ("csrc", "kernels", "deitsec", "tests", "benchmarks")
        for path in (source_tree / folder).rglob("*")
        if path.is_file() and path.suffix != ".so"
    ]
    assert not set(wanted) - names, "left out of the archive"
    assert not [name for name in names if name.endswith(".so")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", sorted((ROOT / "csrc" / "cuda").glob("*.cu")), ids=lambda p: p.stem
)
def test_cuda_kernels_spill_no_register(
    source: Path, setup_module: ModuleType, tmp_path: Path
) -> None:
    try:
        torch = setup_module.Torch.find()
        cuda = setup_module.Cuda.find(torch)
    except setup_module.NotBuiltError as error:
        pytest.skip(f"needs nvcc and a CUDA build of PyTorch: {error}")
    includes = [f"-I{ROOT / 'csrc'}", f"-I{torch.home / 'include'}"]
    flags = [*setup_module.NVCC_FLAGS.split(), setup_module.TORCH_TARGET, "-Xptxas=-v"]
    output = ["-c", str(source), "-o", str(tmp_path / "kernel.o")]
    result = subprocess.run(
        [cuda.nvcc, *flags, *includes, *output], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    compiled = {int(arch) for arch in re.findall(r"for 'sm_(\d+)'", result.stderr)}
    assert compiled == {80, 90}
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert spills
    assert set(spills) == {("0", "0")}
