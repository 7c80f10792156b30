"""Checkpoints fetched from the Hugging Face hub, and every failure there with its cure."""

import errno
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from .weights import choose_files, files_of, first_line


def cached(repo_id: str) -> Path | None:
    """The folder of a checkpoint that lies complete in the hub's local cache, or None. Asks no network."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(repo_id, "unet/config.json")
    if not isinstance(file, str):
        return None
    folder = Path(file).parents[1]
    try:
        choose_files(files_of(folder), half=False)
    except ValueError:  # a download that was never finished
        return None
    return folder


def fetch(repo_id: str, half: bool) -> Path:
    """The folder of a checkpoint, downloaded into the hub's cache; an interrupted download continues.

    half: take the half-precision files where there are any. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE act as
    everywhere. Raises OSError with the reason and the cure, as a clause that begins with the repository.
    """
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    with failure_told(repo_id):
        info = HfApi().model_info(repo_id, files_metadata=True, timeout=20)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings}
    try:
        wanted = choose_files(sizes, half)
    except ValueError as error:
        raise OSError(f"{repo_id} is no Stable Diffusion 1 or 2 model in the diffusers layout: {error}") from error
    with failure_told(repo_id):
        needed = sum(sizes[name] for name in wanted if not try_to_load_from_cache(repo_id, name))
        if (free := free_space()[1]) < needed:  # before gigabytes are fetched, not after
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")
        return Path(snapshot_download(repo_id, allow_patterns=wanted))


@contextmanager
def failure_told(repo_id: str):
    """Turns the hub's failures into an OSError that says what to do; anything else passes."""
    try:
        yield
    except Exception as error:
        reason = _reason(repo_id, error)
        if reason is None:
            raise
        raise OSError(reason) from error


def free_space() -> tuple[Path, int]:
    """The folder of the hub's cache, and the bytes that are free there."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    return cache, shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free


def _reason(repo_id: str, error: Exception) -> str | None:
    """What went wrong at the hub and what to do, or None where it is none of the hub's failures."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo_id}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    library = type(error).__module__.split(".")[0]
    message = first_line(error)[:120]
    if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
        message = getattr(error, "strerror", None) or message
        return f"the disk of {constants.HF_HUB_CACHE} is full ({message}): free some, or set HF_HOME elsewhere"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be written ({error.strerror}): set HF_HOME to a folder of your own"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo_id} is gated: accept its terms at {page} and set HF_TOKEN to a token of your account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repo_id} is not at {page}: it was withdrawn, is misspelt, or is private and needs HF_TOKEN"
    if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return f"{repo_id} is not in the cache and HF_HUB_OFFLINE is set: unset it to download"
    if status == 401 and huggingface_hub.get_token():
        return f"the hub refuses your token (status 401): renew HF_TOKEN at {constants.ENDPOINT}/settings/tokens"
    if status in (401, 403):
        return f"{repo_id} is closed to you (status {status}): look at {page} and set HF_TOKEN to your token"
    if status is not None:
        return f"the hub answered {repo_id} with status {status}: try again later"
    if type(error) is RuntimeError:  # hf_xet, which fetches the weights, has no other for a lost connection
        return f"the download of {repo_id} broke off ({message}): start it again, what is here is kept"
    if isinstance(error, OSError) or library in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
        place = f"the hub at {constants.ENDPOINT}"
        return f"{repo_id} is not in the cache and {place} cannot be reached ({message}): check the connection"
    return None
