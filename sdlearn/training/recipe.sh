#!/bin/sh
# Trains a model with its reader on one GPU in four calls of at most ten minutes: sh recipe.sh 1, then 2, 3 and 4.
# Every call goes on where the last one stopped, so a call that was cut off is simply made again.
# The presets' numbers of steps are estimates for an H100: if the first minute says otherwise, add --steps and restart.
#
#   PRESET   emoji-128 (the default) or emoji-64
#   FROM     a model to start from ("emoji": the shipped one, for emoji-64); nothing: start afresh
#   LAUNCH   for several GPUs, or cores: "torchrun --nproc_per_node 2 -m sdlearn" (batch sizes are those of one process;
#            on cores, with OMP_NUM_THREADS=1)
set -e
PRESET=${PRESET:-emoji-128}
LAUNCH=${LAUNCH:-sdlearn}
RUN=${RUN:-runs/$PRESET}
OPTIONS="--preset $PRESET --cache ${CACHE:-$HOME/.cache/sdlearn/artwork}"
autoencoder() {
    $LAUNCH train autoencoder $OPTIONS --run "$RUN/autoencoder" ${FROM:+--from "$FROM"} "$@"
}
diffusion() {
    $LAUNCH train diffusion $OPTIONS --run "$RUN/diffusion" --vae "$RUN/autoencoder/vae" --reader "$RUN/reader" \
        ${FROM:+--from "$FROM" --learning-rate 5e-4} "$@"  # at 1e-3 a model forgets what it started with
}
case "$1" in
1)  # the artwork (drawn once), then the autoencoder
    mkdir -p "$RUN"
    sdlearn train data $OPTIONS --sheet "$RUN/data.png"
    autoencoder --minutes 8 ;;
2)  # what is left of the autoencoder, and a reader for these subjects
    autoencoder --minutes 4
    sdlearn train reader $OPTIONS --run "$RUN/reader" --vae "$RUN/autoencoder/vae" --steps 6000 ;;
3)  # the latents and the first part of the diffusion model
    diffusion --minutes 8 ;;
4)  # the rest of it, the model folder and its score
    diffusion --minutes 6
    sdlearn train export --diffusion "$RUN/diffusion" --vae "$RUN/autoencoder/vae" --out "$RUN/model"
    cp -r "$RUN/reader" "$RUN/model/reader"
    sdlearn train score $OPTIONS --model "$RUN/model" --reader "$RUN/reader" --held-out --pictures 400 ;;
*)  echo "usage: sh recipe.sh 1 | 2 | 3 | 4" >&2; exit 2 ;;
esac
