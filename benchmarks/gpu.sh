#!/usr/bin/env bash
# Everything that a GPU is needed for, on a bare machine without network: builds, runs the tests that
# are marked gpu, then the benchmarks in order of worth. Each part has a process and a time box of its
# own, so that one that fails or hangs loses nothing of the others.
#
#   benchmarks/gpu.sh OUTDIR
#
# leaves summary.txt, log.txt and a JSON file for each group of benchmarks in OUTDIR. Without a GPU it
# goes through the same parts with tiny shapes. PYTHON names the interpreter (python3), BUDGET the
# seconds for everything (530), PARTS what is done in them (all: tests ops attacks compaction precision
# strong training generation), PYTHONPATH may hold further packages, such as the other libraries.
set -u

if [ $# -ne 1 ]; then
    echo "usage: $0 OUTDIR" >&2
    exit 2
fi
groups="ops attacks compaction precision strong training generation"
parts=${PARTS:-tests $groups}
for name in $parts; do
    case " tests $groups " in
        *" $name "*) ;;
        *)
            echo "PARTS may name tests $groups, got $name" >&2
            exit 2
            ;;
    esac
done
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" || exit 1
out=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
budget=${BUDGET:-530}
summary=$out/summary.txt
log=$out/log.txt
: >"$summary"
: >"$log"
bad=0

say() { echo "$*" | tee -a "$summary"; }

# skip NAME REASON
skip() { say "$1: skipped, $2"; }

wanted() { case " $parts " in *" $1 "*) true ;; *) false ;; esac }

# part NAME SECONDS RESERVE COMMAND...: runs it in at most SECONDS, leaving RESERVE to later parts
part() {
    local name=$1 box=$2 reserve=$3 code start
    shift 3
    local left=$((budget - SECONDS - reserve))
    if [ "$left" -lt "$box" ]; then box=$left; fi
    if [ "$box" -lt 10 ]; then
        skip "$name" "no time was left"
        return 1
    fi
    start=$SECONDS
    echo "=== $name: $*" >>"$log"
    timeout --kill-after=5 "$box" "$@" >>"$log" 2>&1
    code=$?
    case $code in
        0) say "$name: ok, $((SECONDS - start)) s" ;;
        124 | 137) say "$name: timed out after $box s" ;;
        *) say "$name: failed with exit code $code after $((SECONDS - start)) s, see log.txt" ;;
    esac
    if [ "$code" -ne 0 ]; then bad=1; fi
    return "$code"
}

has() { "$python" -c "import $1" >/dev/null 2>&1; }

# the checkout's deitsec, built; pip where it can, else setup.py and a copy
# shellcheck disable=SC2329 # bash -c calls it
build_with_pip() {
    "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index --target "$1" "$2"
}
# shellcheck disable=SC2329 # bash -c calls it
build_with_setup() {
    cd "$2" && "$python" setup.py --quiet build_ext --inplace &&
        mkdir -p "$1" && cp -r deitsec "$1/" && cp -r kernels "$1/deitsec/kernels"
}
export -f build_with_pip build_with_setup
export python

# rows that are there although the part did not end
rows() {
    if [ -f "$out/$1.json" ]; then
        say "$1: $("$python" -c "import json,sys; print(len(json.load(open(sys.argv[1]))['rows']))" \
            "$out/$1.json") rows in $1.json"
    else
        say "$1: no row was measured"
    fi
}

say "commit $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)"
if ! has torch; then
    skip everything "$python has no torch"
    exit 1
fi
gpu=$("$python" -c "import torch
print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')" 2>>"$log")
say "$("$python" -c "import platform, torch
print('Python', platform.python_version() + ', PyTorch', torch.__version__)"), GPU: ${gpu:-none}"
missing=""
for module in triton timm numpy sklearn safetensors torchmetrics typer rich matplotlib jinja2 \
    setuptools pybind11 ninja pytest hypothesis jsonschema psutil pyarrow \
    filelock ray webdataset torchattacks foolbox art pyautoattack; do
    has "$module" || missing+=" $module"
done
say "cannot be imported:${missing:- nothing}"

# a copy, so that the checkout is left as it is
mkdir "$work/source"
(cd "$root" && cp -r csrc deitsec kernels benchmarks tests docs setup.py pyproject.toml MANIFEST.in \
    README.md LICENSE "$work/source/") 2>>"$log"
if [ -n "$gpu" ]; then
    built=180
    command -v nvcc >/dev/null || skip "CUDA kernels" "no nvcc on PATH"
else
    built=100
    export DEITSEC_BUILD_CUDA=0
    skip "CUDA kernels" "there is no GPU"
fi
site=$work/site
if ! part "build" "$built" 60 bash -c 'build_with_pip "$@"' _ "$site" "$work/source"; then
    rm -rf "$site"
    part "build with setup.py" "$built" 60 bash -c 'build_with_setup "$@"' _ "$site" "$work/source"
fi
if [ ! -d "$site/deitsec" ]; then
    mkdir -p "$site"
    cp -r "$root/deitsec" "$site/" && cp -r "$root/kernels" "$site/deitsec/kernels"
    say "build: goes on with plain PyTorch and Triton"
fi
export GIT_PYTHON_REFRESH=quiet # foolbox imports GitPython, which wants a git
# the built package first; the checkout, whose deitsec/ has no libraries, last
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 DEITSEC_CACHE=$work/cache
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}:$root
part "doctor" 60 60 "$python" -m deitsec doctor --json
cd "$root" || exit 1

if ! wanted tests; then
    skip "GPU tests" "PARTS does not name them"
elif [ -z "$gpu" ]; then
    skip "GPU tests" "there is no GPU"
elif ! has pytest; then
    skip "GPU tests" "there is no pytest"
else
    part "GPU tests" 110 240 "$python" -m pytest tests -m gpu -q -p no:cacheprovider \
        --continue-on-collection-errors
fi

# group NAME SECONDS RESERVE [OPTION]: measures one group, with tiny shapes where there is no GPU
group() {
    local name=$1 box=$2 reserve=$3
    shift 3
    if ! wanted "$name"; then return; fi
    if ! has pytest; then
        skip "$name" "there is no pytest"
        return
    fi
    if [ "$name" = generation ] && ! { has pyarrow && has filelock; }; then
        skip "$name" "there is no pyarrow or no filelock"
        return
    fi
    if [ -z "$gpu" ]; then set -- --quick && box=50 && reserve=0; fi
    part "$name" "$box" "$reserve" "$python" -m benchmarks "$name" "$@" --out "$out"
    rows "$name"
}

if [ -z "$gpu" ]; then say "benchmarks: tiny shapes, for there is no GPU"; fi
group ops 110 190 --rounds 5
group attacks 300 70 --rounds 5
group compaction 120 30 --rounds 5
group precision 90 40
group strong 120 0 --rounds 5
group training 90 0 --rounds 5
group generation 120 0 --rounds 5
say "all parts: $SECONDS s"
exit "$bad"
