"""A base from the Hugging Face hub: from the local cache where it is there, else downloaded; a miss is told at once."""

import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from tunewise.errors import ModelError
from tunewise.models import tokenizer_files

PROBE_SECONDS = 5.0
FILES = ["*.json", *tokenizer_files.FILES, "*.jinja", "1_Pooling/*", "README.md"]
SUBFOLDERS = ["onnx/*", "openvino/*", "coreml/*", "*/*.safetensors", "*/*.bin"]


def fetch(name: str, *, revision: str | None, allow_pickle: bool) -> tuple[Path, str | None]:
    """The local folder of a hub base, and its commit.

    Raises:
        ModelError: not in the cache, and the hub is off, out of reach, or does not know it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name):
        raise ModelError(f"models: '{name}' is neither a folder here nor a hub id (`owner/name`). Check the spelling.")
    patterns = [*FILES, "*.safetensors", *(["*.bin"] if allow_pickle else [])]
    cached = _cached(name, revision)
    if cached is not None:
        return cached, cached.name
    if is_offline():
        raise _unknown(name, "the hub is switched off (HF_HUB_OFFLINE)")
    _probe(name, revision)
    try:
        path = Path(
            snapshot_download(
                name, revision=revision, token=_token() or False, allow_patterns=patterns, ignore_patterns=SUBFOLDERS
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"{name}: the download failed ({' '.join(str(error).split())[:200]}). Try again.") from error
    return path, path.name


def is_offline() -> bool:
    """Whether the environment forbids the network."""
    switches = (os.environ.get(key, "") for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(switch.upper() in {"1", "ON", "YES", "TRUE"} for switch in switches)


def _cached(name: str, revision: str | None) -> Path | None:
    """The snapshot in the local cache, if it has a config and weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise _unknown(name, "no hub id is spelled so") from error
    except LocalEntryNotFoundError:
        return None
    weights = any(any(path.glob(pattern)) for pattern in ("*.safetensors", "*.bin"))
    return path if weights and (path / "config.json").is_file() else None


def _probe(name: str, revision: str | None) -> None:
    """One short request, because the hub's own client retries for most of a minute before it gives up."""
    from huggingface_hub import constants

    url = f"{constants.ENDPOINT}/api/models/{name}" + (f"/revision/{revision}" if revision else "")
    token = _token()
    request = urllib.request.Request(url, method="HEAD", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=PROBE_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (301, 302, 307, 308):
            return
        raise _unknown(name, f"the hub does not give it (HTTP {error.code})") from error
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise _unknown(name, "the hub is not reachable") from error


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a renamed base is the client's business, and the token stays with the hub."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


def _unknown(name: str, why: str) -> ModelError:
    return ModelError(
        f"{name}: not found locally, and {why}. "
        "Check the spelling, log in with HF_TOKEN if it is private or gated, or give a path."
    )


def _token() -> str | None:
    """From the environment only; it is never stored."""
    return os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
