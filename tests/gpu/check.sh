#!/usr/bin/env bash
# Checks spnb on a machine with a GPU, in under 6 minutes; each step reports on its own.
#
#   tests/gpu/check.sh prepare [3.12]   with a network: puts the wheels that may be missing there into
#                                       tests/gpu/wheels, for that version of Python
#   tests/gpu/check.sh                  on the machine with the GPU, which needs no network: its
#                                       python3 has PyTorch for CUDA
#   tests/gpu/check.sh rehearse         the same steps on the CPU, with small images: shows that the
#                                       script works, and nothing about a GPU
#
# PYTHON names another interpreter, OUT the folder of the report (default: the current one).
# The exit status is 0 if no step failed; a step that needs a GPU is skipped where there is none.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
mode=${1:-check}

if [ "$mode" = prepare ]; then
    version=${2:-3.12}
    platforms=()
    for glibc in 39 38 36 35 34 31 28 27 26 24 17 12 5; do
        platforms+=(--platform "manylinux_2_${glibc}_x86_64")
    done
    rm -rf "$here/wheels"
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" \
        --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 \
        --dest "$here/wheels" --requirement "$here/wheels.txt" || exit 1
    du -sh "$here/wheels"
    exit
fi

end=$(($(date +%s) + 350)) slower=1
[ "$mode" != rehearse ] || { end=$((end + 3600)) slower=10; }
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
report=${OUT:-.}/gpu-check.txt
: >"$report" || exit 1
say() { echo "$*" | tee -a "$report"; }

# What is missing is installed into an environment of its own, which has all of the other one too.
missing=$("$python" "$here/steps.py" missing)
if [ -n "$missing" ] && [ -d "$here/wheels" ]; then
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
    known=$("$python" -c \
        'import site; print(*site.getsitepackages(), site.getusersitepackages(), sep="\n")')
    library=$("$python" -c 'import sys; print(sys.exec_prefix)')/lib
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$library"
    "$python" -m venv --without-pip "$environment" || exit 1
    python=$environment/bin/python
    echo "$known" >"$("$python" -c 'import site; print(site.getsitepackages()[0])')/known.pth"
    # shellcheck disable=SC2086
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --find-links "$here/wheels" \
        $missing || say "cannot install $missing"
    missing=$("$python" "$here/steps.py" missing)
fi
[ -z "$missing" ] || say "missing: $missing (tests/gpu/check.sh prepare, where there is a network)"

device=cuda
if [ "$mode" = rehearse ]; then
    device=cpu
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    device=none
fi
say "$(date +%F) $("$python" "$here/steps.py" about "$device")"

failed=0
step() { # seconds, whether it needs the card, its name
    local limit=$(($1 * slower)) needs=$2 name=$3 begun left status
    begun=$(date +%s)
    if [ "$needs" = card ] && [ "$device" = none ]; then
        say "$name: skipped: no CUDA device"
        return
    fi
    left=$((end - begun))
    if [ "$left" -lt 5 ]; then
        say "$name: skipped: no time is left of 6 minutes"
        failed=1
        return
    fi
    timeout --kill-after=5 "$((limit < left ? limit : left))" \
        "$python" "$here/steps.py" "$name" "$device" 2>&1 | sed '/^USDT:/d; s/^/    /' | tee -a "$report"
    status=${PIPESTATUS[0]}
    case $status in
    0) say "$name: ok, $(($(date +%s) - begun)) s" ;;
    124 | 137) failed=1 && say "$name: FAILED: not done in $limit s" ;;
    *) failed=1 && say "$name: FAILED: status $status, $(($(date +%s) - begun)) s" ;;
    esac
}

step 60 host ranks-on-the-host
step 60 card inference
step 70 card training
step 110 card shared-by-ranks
step 50 card patches
step 60 card memory
step 90 card speed
exit "$failed"
