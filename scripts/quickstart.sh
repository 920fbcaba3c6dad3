#!/usr/bin/env bash
# From nothing to a trained LIIF in minutes: bash scripts/quickstart.sh
# Makes .venv, takes photographs that come with scikit-image, trains a small model, tests it on a
# photograph that it has not seen, and renders that at a size of one's own. Run again, it reuses
# what is there.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh

run_folder=save/quickstart
held_out=load/sample/valid
picture="$run_folder/astronaut-x2.7.png"

prepare_environment requirements.txt

echo
echo "== photographs"
"$VENV_PYTHON" scripts/prepare_data.py sample

echo
echo "== training (minutes on two CPU cores; a GPU is used when there)"
# In fp32 the same minutes are fewer epochs.
settings=()
if [ "$("$VENV_PYTHON" -c "from engine.runtime import choose_device, usable_precision
print(usable_precision(choose_device(), 'bf16'))")" = fp32 ]; then
    settings=(--set precision=fp32 epoch_max=12)
fi
"$VENV_PYTHON" train_liif.py --config configs/quickstart.yaml --name quickstart --resume auto \
    ${settings[@]+"${settings[@]}"}

echo
echo "== a photograph that it has not seen: bicubic, the new model, and the bundled compact model"
"$VENV_PYTHON" test.py --suite "$held_out" --scales 2 3 4 --lr pil --metrics psnr \
    --baseline bicubic --model "$run_folder/epoch-last.pth" --model compact-liif --json "$run_folder/test.json"

"$VENV_PYTHON" demo.py --input "$held_out/astronaut.png" --model "$run_folder/epoch-last.pth" \
    --scale 2.7 --output "$picture"
echo
echo "rendered at 2.7 times its size: $picture"
cat <<'END'

From here (every command of the README runs in this environment):
    source .venv/bin/activate
    python demo.py YOUR-PHOTO.jpg --scale 4                        # by the bundled compact model
    tensorboard --logdir save                                      # after: pip install tensorboard
    python train_liif.py --config configs/own/photographs.yaml     # your photographs: docs/guides.md
END
