#!/bin/sh
# Makes the shipped model from nothing: sh recipe.sh. A part that was stopped goes on with the same command.
#
#   RUN      folder of everything that is made (default: runs/emoji)
#   LAUNCH   for several GPUs, or cores: "torchrun --nproc_per_node 2 -m -- sdlearn", with OMP_NUM_THREADS=1 on cores and
#            BATCH="--batch-size N", N the share of one process
#   MINUTES  "--minutes 8" ends a long part after that time with a checkpoint, and this script with it, for machines lent
#            by the hour: the next part needs the whole of the one before
set -e
RUN=${RUN:-runs/emoji}
LAUNCH=${LAUNCH:-sdlearn}
CACHE="--cache ${CACHE:-$HOME/.cache/sdlearn/artwork}"
mkdir -p "$RUN"
sdlearn train data $CACHE --sheet "$RUN/data.png"
$LAUNCH train autoencoder $CACHE --run "$RUN/autoencoder" $BATCH $MINUTES
[ -d "$RUN/judge" ] || sdlearn train judge $CACHE --run "$RUN/judge" --vae "$RUN/autoencoder/vae"
$LAUNCH train diffusion $CACHE --run "$RUN/diffusion" --vae "$RUN/autoencoder/vae" --judge "$RUN/judge" $BATCH $MINUTES
$LAUNCH train autoencoder $CACHE --run "$RUN/decoder" --decoder-of "$RUN/autoencoder/vae" $BATCH $MINUTES
sdlearn train export --diffusion "$RUN/diffusion" --vae "$RUN/decoder/vae" --out "$RUN/model"
mkdir -p "$RUN/model/judge"
cp "$RUN/judge/"* "$RUN/model/judge"
$LAUNCH train distil $CACHE --model "$RUN/model" --run "$RUN/few-steps" $BATCH $MINUTES
mkdir -p "$RUN/model/lora/few-steps"
cp "$RUN/few-steps/pytorch_lora_weights.safetensors" "$RUN/model/lora/few-steps"
sdlearn train score $CACHE --model "$RUN/model" --judge "$RUN/judge" --held-out --pictures 400
sdlearn train score $CACHE --model "$RUN/model" --judge "$RUN/judge" --held-out --pictures 400 \
  --lora few-steps --sampler lcm --steps 4 --guidance-scale 1
