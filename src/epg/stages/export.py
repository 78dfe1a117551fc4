"""`epg export`: a run's encoder in the form of another library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from epg.errors import UserError, did_you_mean
from epg.runs.handover import fetch_output
from epg.runs.record import require_record
from epg.runs.run import RECIPE_KEY, Run, run_store
from epg.store.base import ObjectNotFound
from epg.store.files import explained
from epg.store.scratch import scratch_folder
from epg.text import printable

FORMATS = ("timm",)


def export_encoder(encoder: str, *, out: Path, store: str, form: str = "timm") -> list[Path]:
    """Write an encoder into a folder that another library loads.

    Args:
        encoder: path of an encoder's `.safetensors`, or the name of a run that has pre-trained.
        out: folder to make; `model.safetensors` and `config.json` for timm.
        store: where a run's name is looked up.
        form: one of `FORMATS`.

    Returns:
        the files that were written.

    Raises:
        UserError: no such encoder, form or folder.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form}: use {' or '.join(FORMATS)}{did_you_mean(form, FORMATS)}")
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} does not exist")
    import torch

    from epg.diffusion.preconditioning import c_in, c_noise
    from epg.model.files import load_weights, write_tensors
    from epg.model.timm_weights import timm_arguments, timm_config, timm_weights

    with scratch_folder("export") as scratch:
        tensors, header = load_weights(_located(encoder, store, scratch), "encoder")
    recipe = _recipe(header, encoder)
    floor = recipe.sigma_shift * recipe.diffusion.sigma_min
    level = torch.tensor([floor], dtype=torch.float64)
    weights = timm_weights(tensors, c_in(level, recipe.diffusion.sigma_data), c_noise(level))
    arguments = timm_arguments(recipe.encoder_arguments())
    config = timm_config(arguments, *recipe.data.normalisation)
    with explained(out, "write"):
        out.mkdir(exist_ok=True)
        written = [out / "model.safetensors", out / "config.json"]
        plain = {name: tensor.contiguous() for name, tensor in weights.items()}
        write_tensors(written[0], plain, {"format": "pt"})
        written[1].write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return written


def _located(encoder: str, store: str, scratch: Path) -> Path:
    """Return a local file for a path or a run's name."""
    if encoder.endswith(".safetensors") or "/" in encoder:
        return Path(encoder)
    place = run_store(store, encoder)
    try:
        text = place.get_bytes(RECIPE_KEY).decode("utf-8", errors="replace")
    except ObjectNotFound as error:
        raise UserError(
            f"--encoder {printable(encoder)}: no run of that name in {printable(store)}; give "
            "--store, or the path of an encoder.safetensors"
        ) from error
    run = Run.open(text, None, store, encoder)
    record = require_record(run, "pretrain")
    return fetch_output(run, record, "encoder", scratch / "encoder.safetensors")


def _recipe(header: dict[str, Any], encoder: str) -> Any:
    """Return the recipe in an encoder's header. Raises `UserError` where there is none."""
    from pydantic import ValidationError

    from epg.config.recipe import Recipe

    try:
        return Recipe.model_validate(header.get("recipe"))
    except ValidationError as error:
        raise UserError(
            f"{printable(encoder)}: its header holds no recipe that this version of epg knows: "
            "pre-train again with it"
        ) from error
