#!/usr/bin/env bash
# All that a GPU can tell about this checkout in six minutes:  benchmarks/on_gpu.sh OUT [ADAPTER]
#
# doctor, validate, the plans of a picture on the default kernels, tune, plan, the same plans and pictures on what that found, the model beside
# PyTorch (f32, TF32, autocast f16; eager and as CUDA graphs), what other sizes of bands and parts would do for the decoder, the tests'
# hardware cases, compare, every kernel, what other kernels and forms of them would do for a step, an encoding and a decoding. Each has a
# limit of its own: what fails or takes too long is stopped and named, and the rest goes on.
# OUT gets the words (.log) and the numbers (.json) of each, results.json and table.md with all of it. Exit code 1 when something failed.
#
# The Python is $PYTHON, else that of .venv, else python3. On a bare machine, bring wheels along in .whl/ with an onboard.sh that installs
# them, and the Vulkan loader's packages in .gl/: onboard.sh is sourced first. What is needed: the dependencies of pyproject.toml, pytest for
# the tests, torch for the peers; what is missing is named, and left out.
#
# PRECISION=f16 takes that all the way; UNITS=1 takes matrix units, through Dawn (wgpudawn), wherever a step has kernels to choose. Each is a
# run of six minutes by itself, with an OUT of its own, beside the plain one.
#
# REFERENCE=FILE keeps what NumPy makes of the model's work, which others are compared with: the second run need not make it again.
# SECONDS_IN_ALL=N is another limit for everything. ONLY="defaults forms_step" does these steps alone.
#
# SHORT=1 tries the script itself, in two minutes, on a software driver in the place of a GPU: the tiny model, and a part of the rest.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { echo "usage: benchmarks/on_gpu.sh OUT [ADAPTER]" >&2; exit 2; }
mkdir -p "$1" || exit 1
out=$(cd "$1" && pwd)
adapter=("${@:2:1}")
seconds=${SECONDS_IN_ALL:-360}

if [ -f .whl/onboard.sh ]; then . .whl/onboard.sh; fi
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
if ! "$python" -c 'import moebius.shaders' 2> /dev/null; then # not installed: a package made of links
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    mkdir "$site/moebius"
    ln -s "$PWD"/engine/moebius/* "$site/moebius/"
    ln -sfn "$PWD/shaders" "$site/moebius/shaders"
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export MOEBIUS_CACHE=$out/cache PYTHONUNBUFFERED=1 # what is tuned comes back, and is measured here
begin=$(date +%s)
: > "$out/steps.tsv"

# step NAME SECONDS COMMAND…: its words go to NAME.log, its standard output to NAME.json where SAVES=json.
step() {
    local name=$1 limit=$2 left=$((seconds - $(date +%s) + begin)) from code
    [[ -z "${ONLY:-}" || " $ONLY " == *" $name "* ]] || return
    shift 2
    local words="${*:2}" # without the machine's own paths
    [ "$limit" -le "$left" ] || limit=$left
    from=$(date +%s)
    if [ "$limit" -lt 1 ]; then
        code=-1
    elif [ "${SAVES:-}" = json ]; then
        timeout --kill-after=5 "$limit" "$@" > "$out/$name.json" 2> "$out/$name.log"
        code=$?
    else
        timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1
        code=$?
    fi
    printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$code" "$(($(date +%s) - from))" "$limit" "${words//"$out"/OUT}" >> "$out/steps.tsv"
    case $code in
        0) echo "$name: done in $(($(date +%s) - from)) s" ;;
        -1) echo "$name: left out, the $seconds s are over" ;;
        124 | 137) echo "$name: stopped after $limit s; its last words: $(tail -n 1 "$out/$name.log")" ;;
        *) echo "$name: exit code $code; its last words: $(tail -n 1 "$out/$name.log")" ;;
    esac
}

named=("${adapter[@]/#/--adapter=}")
precision=(${PRECISION:+--precision=$PRECISION})
chosen=("${precision[@]}")
[ "${UNITS:-}" != 1 ] || chosen+=(--matrix-units)
f16=("PyTorch CUDA f16 eager" "PyTorch CUDA f16 graph")
peers=("moebius WebGPU" "PyTorch CUDA eager" "PyTorch CUDA graph" "PyTorch CUDA TF32 eager" "PyTorch CUDA TF32 graph" "${f16[@]}")
[ "${PRECISION:-f32}" = f32 ] || peers=("moebius WebGPU" "${f16[@]}")
if [ "${SHORT:-}" = 1 ]; then
    config=tiny tuning=150 kernels=(--seconds 0.05 --filter layer_norm) model=(--small --steps 2 --runs 1 --patience 60)
    tests=(tests/test_kernels.py -k "${adapter[0]:-llvmpipe} and layer_norm_widths")
else
    config=full tuning=60 kernels=(--seconds 0.2) model=(--config full --runs 3 --patience 60)
    tests=(tests/test_kernels*.py tests/test_webgpu.py -k hardware --maxfail 20)
fi

SAVES=json step doctor 40 "$python" -m moebius doctor --json "${named[@]}" "${precision[@]}"
SAVES=json step validate 40 "$python" -m moebius validate --config tiny --json "${named[@]}" "${chosen[@]}"
plans=("$python" benchmarks/whole.py --config $config "${named[@]}" "${chosen[@]}")
[ "${SHORT:-}" = 1 ] || step defaults 30 env MOEBIUS_TUNE=0 "${plans[@]}" --pictures 0 --json "$out/defaults.json"
SAVES=json step tune $tuning "$python" -m moebius tune --config $config --seconds $((tuning - 15)) --json "${named[@]}" "${chosen[@]}"
SAVES=json step plan 30 "$python" -m moebius plan --config $config --json "${named[@]}" "${chosen[@]}"
[ "${SHORT:-}" = 1 ] || step whole 40 "${plans[@]}" --json "$out/whole.json"
left=$((seconds - $(date +%s) + begin)) # what is stopped leaves no figures: it has to know how long it has
step model 180 "$python" benchmarks/bench_model.py "${model[@]}" --budget $((left < 180 ? left > 20 ? left - 15 : 5 : 165)) --brief --reference "${REFERENCE:-$out/reference.npz}" "${named[@]}" "${chosen[@]}" --json "$out/model.json" --only "${peers[@]}"
[ "${SHORT:-}" = 1 ] || step sizes 40 "$python" benchmarks/bench_sizes.py "${named[@]}" "${chosen[@]}" --json "$out/sizes.json"
# The tests choose their precisions and units themselves: once is enough.
[ -n "${PRECISION:-}${UNITS:-}" ] || step tests 75 "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
[ "${SHORT:-}" = 1 ] || step compare 60 "$python" -m moebius compare "${named[@]}" "${precision[@]}" -o "$out/compare.json" --report "$out/compare.md"
step kernels 75 "$python" benchmarks/bench_kernels.py --config $config "${kernels[@]}" "${named[@]}" "${chosen[@]}" --json "$out/kernels.json"
for part in step encode decode; do
    [ "${SHORT:-}" = 1 ] || step forms_$part 75 "$python" benchmarks/bench_forms.py --part $part "${named[@]}" "${chosen[@]}" --json "$out/forms_$part.json"
done
for name in ${ONLY:-}; do
    cut -f1 "$out/steps.tsv" | grep -qxF -- "$name" || echo "$name: there is no such step here"
done
"$python" benchmarks/on_gpu.py "$out"
