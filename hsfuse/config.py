"""Configuration: one pydantic class per command is flags, TOML file, documentation and provenance at once.

A field's name with dashes is the flag, the field's name is the TOML key, its description is the help text.
Unknown keys are errors. What runs is the resolved, frozen object; its hash names the run.

Longer than 400 lines because every setting of the commands stands here once, with its help text.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hsfuse.config_values import number_as_text, parse_days, read_toml
from hsfuse.errors import UsageError, did_you_mean
from hsfuse.resources import parse_size

CoregisterMode = Literal["auto", "global", "local", "off"]
OutputDtype = Literal["int16", "uint16", "float32"]
Guide = Literal["s2", "pan", "pan+s2"]
Compression = Literal["zstd", "deflate", "lerc", "none"]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    command: ClassVar[str] = "run"
    """Command that the settings belong to, for hints."""

    # Several commands have these settings; the checks apply where the field exists.
    @field_validator("device", check_fields=False)
    @classmethod
    def _known_device(cls, value: str) -> str:
        if value in ("auto", "cpu", "cuda") or (value.startswith("cuda:") and value[5:].isdigit()):
            return value
        raise ValueError("choose auto, cpu, cuda or cuda:N")

    @field_validator("max_memory", "max_vram", check_fields=False)
    @classmethod
    def _readable_size(cls, value: str | None) -> str | None:
        if value is not None:
            parse_size(value)
        return value

    @field_validator("scale", check_fields=False)
    @classmethod
    def _factor(cls, value: float | None) -> float | None:
        if value is not None and value > 1.0:
            raise ValueError(f"the scale multiplies stored numbers: for reflectance x {value:g} it is {1 / value:g}")
        return value

    @field_validator("bands", mode="before", check_fields=False)
    @classmethod
    def _bands_as_text(cls, value: Any) -> Any:
        return number_as_text(value)

    @classmethod
    def resolve(cls, file: Path | None = None, **flags: Any) -> Self:
        """Merge flags over a TOML file over the defaults.

        Raises
        ------
        UsageError
            The file is missing or not TOML, or a key or value is wrong.
        """
        values: dict[str, Any] = {} if file is None else read_toml(Path(file))
        values |= {key: value for key, value in flags.items() if value is not None}
        try:
            return cls(**values)
        except ValidationError as error:
            found = error.errors()
            name = str(found[0]["loc"][0]) if found[0]["loc"] else "configuration"
            where = f" (in {file})" if file is not None and flags.get(name) is None else ""
            # A setting of several types has one message for each of them.
            same = [e["msg"].removeprefix("Value error, ") for e in found if e["loc"][:1] == found[0]["loc"][:1]]
            message, meant = "; or: ".join(same), ""
            if found[0]["type"] == "extra_forbidden":
                message, meant = "there is no such setting", did_you_mean(name, cls.model_fields)
            elif found[0]["type"] == "literal_error":
                meant = did_you_mean(str(found[0]["input"]), re.findall(r"'([^']+)'", message))
            raise UsageError(
                f"Option '{name.replace('_', '-')}'{where}: {message}.",
                hint=f"{meant}See `hsfuse {cls.command} --help`; a configuration file uses the same names with"
                " underscores.",
            ) from error

    def digest(self, *, exclude: frozenset[str] = frozenset()) -> str:
        """Hash of all settings (hexadecimal, 16 digits); equal settings give equal hashes."""
        content = json.dumps(self.model_dump(mode="json", exclude=set(exclude)), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


class CoregisterConfig(_Config):
    """Settings of the co-registration."""

    command: ClassVar[str] = "coregister"

    coregister: CoregisterMode = Field("auto", description="auto: global shift, then a smooth field if it pays")
    search_m: float = Field(1200.0, ge=30.0, le=5000.0, description="largest shift that is searched, in metres")
    window_px: int = Field(64, ge=16, le=512, description="side of the matching windows, in HSI pixels")
    step_px: int = Field(20, ge=4, le=512, description="distance between tie points, in HSI pixels")
    min_points: int = Field(12, ge=4, description="fewest tie points for a local field")
    max_rmse_m: float = Field(15.0, gt=0.0, description="largest error (RMSE) that is accepted, in metres")
    min_correlation: float = Field(0.1, ge=0.0, le=1.0, description="smallest correlation after alignment")
    holdout: float = Field(0.2, gt=0.0, lt=0.6, description="share of tie points kept as check points")
    min_peak_score: float = Field(
        8.0, ge=0.0, description="smallest height of the global correlation peak, in standard deviations of the rest"
    )
    min_peak_ratio: float = Field(
        1.3, ge=1.0, description="smallest height of the global correlation peak over the next best one"
    )
    dem: Path | None = Field(None, description="heights of the ground (any raster): parallax is fitted to them")
    correct_swir: bool = Field(False, description="move SWIR bands by their measured misalignment with the VNIR bands")
    verify: bool = Field(True, description="compare Sentinel-2 images with the checksums of their manifest")
    s2_date: str | None = Field(
        None, description="use Sentinel-2 images of these days (UTC) only, such as 2024-06-23 or several with commas"
    )
    max_days: float | None = Field(
        None, ge=0.0, description="leave out Sentinel-2 images further away in time, in days; default: 60 for those"
        " that fill the clouds of the image that fits best",
    )  # fmt: skip

    @field_validator("s2_date", mode="before")
    @classmethod
    def _day_as_text(cls, value: Any) -> Any:
        # A TOML file may hold a date.
        return value.isoformat() if isinstance(value, date) and not isinstance(value, datetime) else value

    @field_validator("s2_date")
    @classmethod
    def _known_days(cls, value: str | None) -> str | None:
        if value is not None:
            parse_days(value)
        return value

    @property
    def s2_days(self) -> tuple[date, ...]:
        """Days of :attr:`s2_date`; empty for all."""
        return () if self.s2_date is None else parse_days(self.s2_date)


class _MethodConfig(_Config):
    """Which method fuses. A base of its own, so that these settings come first in help and configuration files."""

    method: str = Field("auto", description="fusion method; auto: the best one that is proven for the scene")
    model: Path | None = Field(None, description="weights file (.safetensors) for a network method")
    prior: Path | None = Field(None, description="weights of a diffusion prior, for methods that sample one")


class _PairConfig(CoregisterConfig):
    """How a pair is opened: its bands, blur and clouds."""

    bands: str = Field(
        "100",
        description="number of bands, 'good' (all that pass), 'all', or a text file with wavelengths in nm",
    )
    vnir_swir_cut_nm: float = Field(
        950.0, gt=800.0, lt=1100.0, description="VNIR bands below, SWIR bands above this wavelength"
    )
    wavelengths: Path | None = Field(
        None, description="of an HSI raster that names none: text file, a line with centre and FWHM (nm) for each band"
    )
    scale: float | None = Field(None, gt=0.0, description="of an HSI raster: reflectance is number x scale + offset")
    offset: float | None = Field(None, ge=-100.0, le=100.0, description="of an HSI raster, see --scale")
    nodata: float | None = Field(None, description="of an HSI raster: stored number of samples without data")
    guide: Guide = Field(
        "s2",
        description="s2: the MSI given; pan: the product's own panchromatic image; pan+s2: both in turn, with "
        "--quality plain",
    )
    s2_bands: Literal["10m", "all"] = Field("10m", description="MSI bands: 10 m only, or the 20 m bands too")
    allow_radiometry_mismatch: bool = Field(
        False, description="fuse a top-of-atmosphere HSI with a surface reflectance MSI all the same"
    )
    psf_fwhm: float | Literal["auto"] = Field(
        "auto", description="HSI PSF width in HSI pixels; auto: estimated, known of a simulated HSI"
    )
    cloud_mask: bool = Field(True, description="leave out what clouds of the MSI hide (nodata in a cube)")
    cloud_dilate_px: int = Field(2, ge=0, le=100, description="grow the cloud mask by so many MSI pixels")

    @field_validator("guide")
    @classmethod
    def _known_guide(cls, value: Guide) -> Guide:
        if value == "pan+s2" and cls.command in ("compare", "train-reduced"):
            raise ValueError("two guides, pan+s2, are for `hsfuse run`; choose s2 or pan")
        return value


class _MachineConfig(_Config):
    """Where it is computed."""

    device: str = Field("auto", description="auto, cpu or cuda:N")
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads; default: all")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything random")


class _FusionConfig(_MachineConfig, _PairConfig):
    """How a scene is fused: what a run and a comparison share."""

    ratio: int | None = Field(None, ge=2, le=20, description="pixel size ratio; default: from the products, else 3")
    aoi: str | None = Field(
        None, description="area: a vector file, or left,bottom,right,top in the MSI's reference system"
    )
    aoi_crs: str | None = Field(None, description="reference system of a bounding box, such as EPSG:4326")
    tile: int | None = Field(None, ge=8, le=1_000_000, description="tile side in MSI pixels; default: from the memory")
    quality: Literal["plain", "fast", "standard", "best"] = Field(
        "standard",
        description="plain: the method's result alone; the others find what changed between both images, repair the "
        "guide and refine the result: fast in closed form, standard on a denoised guide, best with non-local Bayes too",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of networks; auto: bf16 where the processor has it, else fp32"
    )
    max_memory: str | None = Field(None, description="host memory that may be used, such as 4GB; default: 70 % of free")
    max_vram: str | None = Field(None, description="GPU memory that may be used; default: 85 % of free")


_PAIR_FIELDS = tuple(_PairConfig.model_fields)


NOT_CONTENT = frozenset(
    {"overwrite", "resume", "device", "threads", "max_memory", "max_vram", "report", "figures", "min_quality", "verify"}
)
"""Settings of :class:`RunConfig` that say how or where a cube is computed, not what it holds."""


class RunConfig(_FusionConfig, _MethodConfig):
    """Settings of `hsfuse run`."""

    command: ClassVar[str] = "run"

    partners: int = Field(
        2, ge=0, le=2, description="of Sentinel-2 images of several dates, combine the one that fits best with up to so"
        " many others that show the same ground: less noise, and detail where it shows other ground; 0: with none",
    )  # fmt: skip
    adapt: float | None = Field(
        None, gt=0.0, le=1440.0, description="train the network on the scene itself first, for at most so many minutes"
    )
    back_projection: int = Field(
        0, ge=0, le=10, description="fidelity guard: steps that tie the result to the HSI; pays without noise only"
    )
    back_projection_weight: float = Field(
        1.0, gt=0.0, le=1.0, description="share of the difference to the HSI that a step adds"
    )
    srf_weight: float = Field(
        0.0, ge=0.0, le=1.0, description="fidelity guard: share of the difference to the MSI that is added; 0: off"
    )
    format: str = Field("auto", min_length=1, description="name of an output format; auto: from the output's name")
    dtype: OutputDtype = Field("int16", description="int16 and uint16: reflectance x 10000; float32: reflectance")
    compress: Compression = Field("zstd", description="compression of formats that have it")
    overwrite: bool = Field(False, description="replace an existing output")
    resume: bool = Field(False, description="go on with an interrupted run, with --overwrite too")
    overlap: int | None = Field(
        None, ge=0, le=1_000_000, description="overlap of tiles in MSI pixels; default: from the method"
    )
    clip: bool = Field(True, description="clip reflectance to the physical range -0.05 to 1.5")
    report: bool = Field(True, description="write the HTML report, plots and quality scores")
    figures: str = Field("png", description="formats of the report's drawings beside it, such as png,svg,pdf")
    min_quality: float | None = Field(None, ge=0.0, le=1.0, description="fail (exit code 8) below this QNR")
    min_confidence: float | None = Field(
        None, ge=0.0, le=1.0, description="nodata where the probability that both images show the same ground is lower"
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_in_two_steps(cls, values: Any) -> Any:
        # Two guides are fused in two steps, which know no repair and no refinement.
        if isinstance(values, dict) and values.get("guide") == "pan+s2":
            return {"quality": "plain"} | values
        return values

    @field_validator("figures")
    @classmethod
    def _known_figures(cls, value: str) -> str:
        if not set(value.split(",")) <= {"png", "svg", "pdf"}:
            raise ValueError("choose from png, svg and pdf, separated by commas")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_quality is not None and not self.report:
            raise ValueError("--min-quality needs the scores of the report, so it excludes --no-report")
        if self.min_confidence is not None and self.quality == "plain":
            raise ValueError("--min-confidence needs --quality fast, standard or best")
        if self.compress == "lerc" and self.dtype != "float32":
            raise ValueError("lerc compression is for float32 output")
        if self.guide == "pan+s2" and (self.quality != "plain" or self.srf_weight or self.adapt):
            raise ValueError("--guide pan+s2 fuses in two steps and excludes --quality, --srf-weight and --adapt")
        if self.back_projection_weight != 1.0 and not self.back_projection:
            raise ValueError("--back-projection-weight needs --back-projection")
        return self

    def coregistration(self) -> CoregisterConfig:
        """Return the co-registration's share of the settings."""
        return CoregisterConfig(**{name: getattr(self, name) for name in CoregisterConfig.model_fields})

    def identity(self) -> str:
        """Hash of the settings that decide the output's content (not how or where it is computed)."""
        return self.digest(exclude=NOT_CONTENT)


class TrainConfig(_MachineConfig, _PairConfig):
    """Settings of `hsfuse train-reduced`. What is left out comes from the recipe."""

    command: ClassVar[str] = "train-reduced"

    method: str = Field("ssrfn-lite", description="network to train, without --init; `hsfuse models` lists them")
    network_settings: str | None = Field(None, description="changes to it, such as width=48,dfe_blocks=3")
    init: str | None = Field(None, description="start from the weights of a network of the zoo or a file")
    name: str | None = Field(None, description="name kept in the weights; default: that of the output file")
    recipe: str = Field("default", description="default, or one of the network's own, such as paper")
    generated: int = Field(0, ge=0, le=100_000, description="random scenes to draw and train on as well")
    generated_share: float = Field(
        0.5, ge=0.0, le=1.0, description="share of the training windows from generated scenes beside measured ones"
    )
    remixed: int = Field(
        0, ge=0, le=10_000, description="variants of every cube with its structure and other materials' spectra"
    )
    structure: str | None = Field(None, description="an image or a folder of images to make such variants of as well")
    generated_px: int = Field(192, ge=48, le=1024, description="side of the generated scenes, in fine pixels")
    ratio: str | None = Field(
        None, description="pixel size ratio, or several such as 3,4 without pairs; default: from the products, else 3"
    )
    minutes: float | None = Field(None, gt=0.0, description="stop after this time")
    steps: int | None = Field(None, ge=1, description="stop after so many batches")
    epochs: float | None = Field(None, gt=0.0, description="stop after so many times the scenes' area")
    patch: int = Field(48, ge=12, le=1024, description="side of training patches, in pixels of the reference")
    window: int = Field(192, ge=24, le=4096, description="side of the windows that are degraded at a time")
    batch: int = Field(8, ge=1, le=4096, description="patches in a batch, over all processes")
    micro_batch: int | None = Field(None, ge=1, description="patches computed at a time; bounds the memory")
    validation_share: float = Field(0.2, gt=0.0, lt=0.6, description="share of each scene kept for validation")
    gap: int = Field(18, ge=0, le=1000, description="pixels between training and validation strips")
    validation_windows: int = Field(6, ge=1, le=200, description="windows that are validated")
    validate_every: int | None = Field(None, ge=1, description="steps between validations; default: 20 in all")
    patience: int | None = Field(None, ge=0, description="stop after so many validations without gain; 0: never")
    lr: float | None = Field(None, gt=0.0, le=1.0, description="learning rate")
    loss: Literal["relative", "l1-sam", "l1", "mse"] | None = Field(
        None, description="relative (to the base estimate's errors), l1-sam, l1 or mse"
    )
    schedule: Literal["cosine", "constant"] | None = Field(None, description="learning rate over time")
    ema: float | None = Field(None, ge=0.0, lt=1.0, description="decay of the averaged weights; 0: none")
    clip: float | None = Field(None, ge=0.0, description="largest norm of the gradient; 0: no limit")
    augment: Literal["auto", "on", "off"] = Field(
        "auto", description="noise, stripes, blur, shifts and gains as in real pairs; auto: as the recipe has it"
    )
    weights: Literal["fp32", "bf16"] = Field("fp32", description="number format of the file")
    overwrite: bool = Field(False, description="replace an existing output")
    resume: bool = Field(False, description="go on with an interrupted training, with --overwrite too")
    checkpoint_minutes: float = Field(10.0, gt=0.0, description="time between checkpoints")
    tensorboard: bool = Field(False, description="write a TensorBoard log as well as the CSV file")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")
    recompute: bool = Field(False, description="less memory, more time: compute Mamba blocks twice")
    deterministic: bool = Field(
        False, description="the same numbers on every run on a GPU too: slower algorithms, no atomic additions"
    )

    @field_validator("ratio", mode="before")
    @classmethod
    def _ratio_as_text(cls, value: Any) -> Any:
        return number_as_text(value)

    @field_validator("ratio")
    @classmethod
    def _known_ratios(cls, value: str | None) -> str | None:
        if value is not None and not all(p.strip().isdigit() and 2 <= int(p) <= 12 for p in value.split(",")):
            raise ValueError("give whole numbers of 2 to 12, such as 3 or 3,4")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.window < self.patch:
            raise ValueError("--window must not be smaller than --patch")
        return self

    @property
    def ratios(self) -> tuple[int, ...]:
        """The ratios that were asked for; empty for none."""
        return tuple(sorted({int(part) for part in self.ratio.split(",")})) if self.ratio else ()

    def pair_config(self) -> RunConfig:
        """Return the settings with which a pair is opened and aligned."""
        values = {name: getattr(self, name) for name in (*_PAIR_FIELDS, "seed")}
        return RunConfig(**values, ratio=self.ratios[0] if self.ratios else None)

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a training to be resumed: all that decides the weights."""
        files = {"overwrite", "resume", "checkpoint_minutes", "tensorboard", "name", "weights", "verify"}
        loose = files | {"device", "threads"}
        return self.model_dump(mode="json", exclude=loose)


class CompareConfig(_FusionConfig):
    """Settings of `hsfuse compare`."""

    command: ClassVar[str] = "compare"

    methods: str = Field(
        "auto",
        description="methods, separated by commas: name[:option=value,...][@weights][+guard=value,...]; auto: the "
        "classics and the networks that run may choose; all: everything that can run here",
        json_schema_extra={"flags": ["--method"]},
    )
    adapt: float | None = Field(
        None, gt=0.0, le=1440.0, description="add every network adapted to the scene for so many minutes"
    )
    reduced: bool = Field(
        False, description="judge a pair at reduced resolution too: its HSI is the reference (Wald's protocol)"
    )
    condition: Literal["noise-free", "35dB", "field"] = Field(
        "noise-free",
        description="at reduced resolution: noise-free; 35dB: noise; field: noise, blur, shift and gain errors",
    )
    window: int | None = Field(
        None, ge=24, le=20_000, description="largest side of the compared part, in pixels of the HSI or cube given;"
        " default: 256, of a cube 384",
    )  # fmt: skip
    overwrite: bool = Field(False, description="replace an existing report")

    def pair_config(self) -> RunConfig:
        """Return the settings with which a pair is opened and aligned."""
        shared = ("ratio", "aoi", "aoi_crs", "seed", "max_memory", "max_vram", "device")
        return RunConfig(**{name: getattr(self, name) for name in (*_PAIR_FIELDS, *shared)})
