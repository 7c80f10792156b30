"""How the shipped model was made, and how to make your own: artwork, autoencoder, judge, diffusion, score, export.

presets       the size, the subjects and their names
captions      what a caption can say, written and read back
artwork       open emoji drawings, fetched and drawn in six styles
pictures      pictures composed from them, by a seed
judge         a classifier that reads subject, style and background off a picture: the measuring instrument
loop          what every training run shares: mixed precision, EMA, checkpoints, progress
autoencoder   picture <-> latents
diffusion     text encoder and UNet, trained together on latents
lora          one new subject for a finished model, in two thin matrices beside each of its own
score         how well a model obeys its prompts
export        a finished run as a diffusers folder
"""
