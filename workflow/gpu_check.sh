#!/usr/bin/env bash
# All that a GPU is needed for: `make gpu-check`. Arguments are configuration files laid over the preset camvid_gpu.
#
# Each step leaves its table in results/gpu-check/ as soon as it has one, so that a machine that is lent for minutes, or
# taken away, leaves what it has shown:
#   tests.md     the tests marked gpu
#   kernels.md   kernels and methods, timed quickly, with their tables (*.csv); written after every row
#   camvid.md    CamVid, trained by every method for a few hundred steps, if CAMVID_ROOT is set
# A step that fails does not keep the next ones from running; the exit status is 1 then.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=results/gpu-check
status=0
mkdir -p "$folder"

# Notes that a step has failed.
failed() {
    echo "structseg: gpu-check: $1 failed, see $2" >&2
    status=1
}

head_of() {
    echo "# $1"
    echo
    echo "$(date -u +%Y-%m-%dT%H:%M:%SZ), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader 2>/dev/null || echo "no GPU"
    echo
}

head_of "Tests marked gpu" >"$folder/tests.md"
python -m pytest -m gpu -q --durations 5 >>"$folder/tests.md" 2>&1
case $? in
    0 | 5) tail -n 1 "$folder/tests.md" ;; # 5: none were selected
    *) failed tests "$folder/tests.md" ;;
esac

python -m common kernels --quick || failed kernels "the message above"
cp results/kernels/quick/kernels.md results/kernels/quick/*.csv "$folder/" # whatever rows there are

if [ -n "${CAMVID_ROOT:-}" ]; then
    snakemake --cores all --resources gpu=1 --keep-going --quiet rules \
        --configfile workflow/presets/camvid_gpu.yaml "$@" \
        --config "results=$folder/camvid" 'execution={"measure": "none"}' ||
        failed camvid "$folder/camvid/"
    { head_of "CamVid, a few hundred steps per method" && tail -n +2 "$folder/camvid/leaderboard.md"; } >"$folder/camvid.md" ||
        failed camvid "$folder/camvid/"
else
    echo "structseg: gpu-check: CAMVID_ROOT is not set, so nothing is trained on CamVid" >&2
fi

ls "$folder"
exit "$status"
