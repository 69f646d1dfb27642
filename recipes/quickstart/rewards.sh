# The optional sixth part of the quickstart, sourced by quickstart.sh with QUICKSTART_STAGES=5: pairs
# of answers by rule, stage 4 on them, stage 5 with rewards for looking, and the same measure after.

step "generate-instructions: right answers beside wrong ones" "$run/pairs/train/summary.json" \
    medllava generate-instructions "$run/figures" --stage prefer --questions-per-figure 4 \
    -o "$run/pairs/train"

step "generate-instructions: held-out pairs" "$run/pairs/test/summary.json" \
    medllava generate-instructions "$run/figures" --stage prefer --split test --limit 40 \
    -o "$run/pairs/test"

# fp32: in bf16 the margins of pairs are too coarse.
step "train --stage 4: the better of two answers becomes likelier" "$run/stage4/run.json" \
    medllava train smollm2-135m --stage 4 --data "$run/pairs/train" --max-steps 8 \
    --set train.precision=fp32 \
    --validation-data "$run/pairs/test" --init "$run/stage2" -o "$run/stage4"

step "train --stage 5: rewarded for looking" "$run/stage5/run.json" \
    medllava train smollm2-135m --stage 5 --data "$run/instructions/train" --max-steps 10 \
    --init "$run/stage4" -o "$run/stage5"

step "eval: the same held-out questions after it" "$run/eval5/report.json" \
    medllava eval "$run/instructions/test/questions.jsonl" --ckpt "$run/stage5" \
    --controls permuted_within --permutations 1 -o "$run/eval5"

step "eval --compare: before the pairs and after the rewards" "$run/compare/compare.json" \
    medllava eval "$run/instructions/test/questions.jsonl" --compare "$run/eval" "$run/eval5" \
    -o "$run/compare"
