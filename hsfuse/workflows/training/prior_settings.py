"""Settings of `hsfuse train-prior`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from hsfuse.config import _MachineConfig


class TrainPriorConfig(_MachineConfig):
    """Settings of `hsfuse train-prior`."""

    command: ClassVar[str] = "train-prior"

    bands: int = Field(3, ge=1, le=16, description="bands of the patches: as many as the network that uses it needs")
    fold: int = Field(2, ge=1, le=4, description="pixels along each axis that are one of the network's")
    width: int = Field(32, ge=4, le=512, description="channels of the first level")
    levels: int = Field(3, ge=2, le=5, description="resolutions, each half of the one before")
    blocks: int = Field(1, ge=1, le=4, description="residual blocks at every resolution")
    levels_of_noise: int = Field(500, ge=20, le=4000, description="noise levels of the schedule")
    name: str | None = Field(None, description="name kept in the weights; default: that of the output file")
    minutes: float | None = Field(None, gt=0.0, description="stop after this time")
    steps: int | None = Field(None, ge=1, description="stop after so many batches; default: 4000 without --minutes")
    patch: int = Field(48, ge=16, le=512, description="side of the patches, in pixels")
    batch: int = Field(8, ge=1, le=1024, description="patches in a batch")
    micro_batch: int = Field(8, ge=1, description="patches computed at a time; bounds the memory")
    validation_share: float = Field(
        0.2, gt=0.0, lt=0.6, description="share of the rows of every image that validates, where it is large enough"
    )
    validate_every: int | None = Field(None, ge=1, description="steps between validations")
    lr: float = Field(2e-3, gt=0.0, le=1.0, description="learning rate")
    ema: float = Field(0.998, ge=0.0, lt=1.0, description="decay of the averaged weights; 0: none")
    weights: Literal["fp32", "bf16"] = Field("fp32", description="number format of the file")
    overwrite: bool = Field(False, description="replace an existing output")
    resume: bool = Field(False, description="go on with an interrupted training")
    checkpoint_minutes: float = Field(5.0, gt=0.0, description="time between checkpoints")
    tensorboard: bool = Field(False, description="write a TensorBoard log as well as the CSV file")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.overwrite and self.resume:
            raise ValueError("--overwrite and --resume exclude each other")
        return self

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a training to be resumed: all that decides the weights."""
        loose = {"overwrite", "resume", "checkpoint_minutes", "tensorboard", "name", "weights", "device", "threads"}
        return self.model_dump(mode="json", exclude=loose)
