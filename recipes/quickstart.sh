#!/usr/bin/env bash
# The whole route on real input, on a laptop's CPU: real weights and images out of published
# packages, figures fetched from a small archive, instructions made, two stages trained, the model
# scored against honest floors, asked about a picture, and packed for publication.
#
#   bash recipes/quickstart.sh
#
# What is made lies under runs/quickstart/; a second run reuses it. Downloads are kept in
# .cache/quickstart (MEDLLAVA_QUICKSTART_CACHE moves them). No GPU, key or model hub is needed.
# QUICKSTART_SHORT=1 trains a quarter of stage 2's steps and permutes the images once, under
# runs/quickstart-short/: enough to see every part work, not for a score.
# QUICKSTART_STAGES=5 goes on: pairs of answers, stage 4, and stage 5 with rewards for looking.
# QUICKSTART_SEED=1 trains with another seed than 0, under runs/quickstart-seed1/.
# QUICKSTART_INSTALLED=1 uses .venv as it lies.
set -euo pipefail
cd "$(dirname "$0")/.."
run=runs/quickstart${QUICKSTART_SHORT:+-short}${QUICKSTART_SEED:+-seed$QUICKSTART_SEED}
cache=.cache/quickstart
started=$SECONDS
mkdir -p .cache "$run"
if [ -n "${MEDLLAVA_QUICKSTART_CACHE:-}" ]; then
    mkdir -p "$MEDLLAVA_QUICKSTART_CACHE"
    ln -sfn "$(cd "$MEDLLAVA_QUICKSTART_CACHE" && pwd)" "$cache"
fi

# Print a heading; run the command unless the thing it makes is there.
step() {
    local title=$1 artifact=$2
    shift 2
    printf '\n[%3d s] %s\n' $((SECONDS - started)) "$title"
    if [ -e "$artifact" ]; then
        echo "already there: $artifact"
    else
        "$@"
    fi
}

printf '[%3d s] Install into .venv\n' 0
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
export PATH="$PWD/.venv/bin:$PATH"
python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12." >&2
    exit 7
}
[ -n "${QUICKSTART_INSTALLED:-}" ] ||
    pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[quickstart${QUICKSTART_STAGES:+,rl}]"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

printf '\n[%3d s] Get the real weights and images\n' $((SECONDS - started))
# Where DeepSpeed is installed it would warn here that there is no GPU; nothing here computes.
DS_ACCELERATOR=cpu python recipes/quickstart/fetch_parts.py "$cache"
started_work=$SECONDS

step "Build the archive: real images in short articles" "$run/archive/split.csv" \
    python recipes/quickstart/build_archive.py "$cache/files" "$run/archive"

step "fetch-pmc: archive to figure records" "$run/figures/summary.json" \
    medllava fetch-pmc --input "$run/archive" --split-file "$run/archive/split.csv" \
    -o "$run/figures"

step "generate-instructions: captions to align" "$run/instructions/align/summary.json" \
    medllava generate-instructions "$run/figures" --stage align -o "$run/instructions/align"

step "generate-instructions: questions to learn from" "$run/instructions/train/summary.json" \
    medllava generate-instructions "$run/figures" --stage instruct --teacher template \
    --questions-per-figure 16 --closed-share 0.4 --closed-replies reasoned \
    -o "$run/instructions/train"

step "generate-instructions: held-out questions" "$run/instructions/test/summary.json" \
    medllava generate-instructions "$run/figures" --stage instruct --teacher template \
    --questions-per-figure 4 --closed-share 0.2 --split test -o "$run/instructions/test"

step "train --stage 1: the projector learns" "$run/stage1/run.json" \
    medllava train smollm2-135m --stage 1 --data "$run/instructions/align" -o "$run/stage1" \
    ${QUICKSTART_SEED:+--set train.seed=$QUICKSTART_SEED}

step "train --stage 2: projector and language model learn" "$run/stage2/run.json" \
    medllava train smollm2-135m --stage 2 --data "$run/instructions/train" \
    --init "$run/stage1" -o "$run/stage2" ${QUICKSTART_SHORT:+--set stage.instruct.epochs=0.17} \
    ${QUICKSTART_SEED:+--set train.seed=$QUICKSTART_SEED}

step "eval: held-out questions, beside honest floors" "$run/eval/report.json" \
    medllava eval "$run/instructions/test/questions.jsonl" --ckpt "$run/stage2" \
    --controls permuted,blank,majority ${QUICKSTART_SHORT:+--permutations 1} -o "$run/eval"

step "What the frozen encoder alone could answer" "$run/linear_probe.json" \
    python recipes/quickstart/linear_probe.py "$run"

first_question=$(head -n 1 "$run/instructions/test/questions.jsonl")
image=$run/figures/$(python -c 'import json, sys; print(json.loads(sys.argv[1])["image"])' \
    "$first_question")
printf '\n[%3d s] chat: one question about %s\n' $((SECONDS - started)) "$image"
medllava chat "$image" --ckpt "$run/stage2" --prompt "What kind of image is this?"

step "push --dry-run: the folder and card that would be published" "$run/push/README.md" \
    medllava push "$run/stage2" quickstart/medllava-smollm2-135m --eval "$run/eval" --dry-run -o "$run/push"

[ "${QUICKSTART_STAGES:-2}" -lt 5 ] || . recipes/quickstart/rewards.sh

printf '\n[%3d s] Done (%d s after the downloads)\n' \
    $((SECONDS - started)) $((SECONDS - started_work))
python recipes/quickstart/summary.py "$run"
