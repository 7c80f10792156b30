#!/bin/sh
# Trains the 128-pixel model on one GPU in three calls of at most ten minutes each: sh emoji-128.sh 1, then 2, then 3.
# Every call goes on where the last one stopped, so a call that was cut off is simply made again.
# The presets' numbers of steps are estimates for an H100: if the first minute says otherwise, add --steps and restart.
# Several GPUs: set LAUNCH="accelerate launch $(command -v sdlearn)" (batch sizes are those of one process).
set -e
LAUNCH=${LAUNCH:-sdlearn}
RUN=${RUN:-runs/emoji-128}
PRESET="--preset emoji-128 --cache ${CACHE:-$HOME/.cache/sdlearn/artwork}"
case "$1" in
1)  # the artwork (drawn once), then the autoencoder
    mkdir -p "$RUN"
    sdlearn train data $PRESET --sheet "$RUN/data.png"
    $LAUNCH train autoencoder $PRESET --run "$RUN/autoencoder" --minutes 8 ;;
2)  # what is left of the autoencoder, then the latents and the first part of the diffusion model
    $LAUNCH train autoencoder $PRESET --run "$RUN/autoencoder" --minutes 3
    $LAUNCH train diffusion $PRESET --run "$RUN/diffusion" --vae "$RUN/autoencoder/vae" --minutes 5 ;;
3)  # the rest of the diffusion model, a reader for these subjects, the model folder and its score
    $LAUNCH train diffusion $PRESET --run "$RUN/diffusion" --vae "$RUN/autoencoder/vae" --minutes 7
    sdlearn train export --diffusion "$RUN/diffusion" --vae "$RUN/autoencoder/vae" --out "$RUN/model"
    sdlearn train reader $PRESET --run "$RUN/model/reader" --vae "$RUN/model" --steps 3000
    sdlearn train score $PRESET --model "$RUN/model" --reader "$RUN/model/reader" --held-out --pictures 400 ;;
*)  echo "usage: sh emoji-128.sh 1 | 2 | 3" >&2; exit 2 ;;
esac
