"""How the shipped model was made, and how to make your own: data, autoencoder, diffusion, reader, score, export.

    captions      what a caption can say, written and read back
    data          the artwork fetched and drawn, pictures composed from it (seeded)
    reader        a classifier that reads subject, style and background off a picture: the measuring instrument
    loop          what every training run shares: mixed precision, EMA, checkpoints, progress
    autoencoder   picture <-> latents
    diffusion     text encoder and UNet, trained together on latents
    score         how well a model obeys its prompts
    export        a finished run as a diffusers folder
"""
