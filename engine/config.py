"""Configuration files read once into frozen dataclasses, and checked whole before anything loads.

Every problem of a file is reported in one message, each with its key path, what was given and
what is allowed. Names and values of models and data sets are checked against the signatures of
what is registered under them, so that a new encoder needs no second list.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from datasets.datasets import datasets_registry
from engine.config_files import Layer, apply_overrides, merged, read_layers, with_origin
from engine.imports import found_imports, import_all
from models.models import models_registry
from registry import Above, AtLeast, Below, SpecOf, read_dataclass, show
from utils import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
PositiveInt = Annotated[int, AtLeast(1)]
NonNegativeInt = Annotated[int, AtLeast(0)]
PositiveFloat = Annotated[float, Above(0)]
NonNegativeFloat = Annotated[float, AtLeast(0)]
Decay = Annotated[float, AtLeast(0), Below(1)]
DatasetSpec = Annotated[dict, SpecOf(datasets_registry)]
WrapperSpec = Annotated[dict, SpecOf(datasets_registry, supplied=("dataset",))]
ModelSpec = Annotated[dict, SpecOf(models_registry)]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set, what turns its photographs into queries, and how many make a batch."""

    dataset: DatasetSpec
    wrapper: WrapperSpec
    batch_size: PositiveInt
    """Items per step, over all processes and micro-batches."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """x is seen by the network as (x - sub) / div: one number, or one per channel."""

    sub: list[float]
    div: list[float]

    def check_counts(self) -> Iterator[str]:
        for key, numbers in vars(self).items():
            if len(numbers) not in (1, 3):
                yield f"{key}: {show(numbers)} given; allowed: 1 or 3 numbers"

    def check_div(self) -> Iterator[str]:
        if 0 in self.div:
            yield f"div: {show(self.div)} given; allowed: numbers other than 0"


IDENTITY = Norm(sub=[0], div=[1])


@dataclass(frozen=True, kw_only=True)
class DataNorm:
    """Normalisation of what the network sees and of what it learns."""

    inp: Norm = IDENTITY
    gt: Norm = IDENTITY


@dataclass(frozen=True, kw_only=True)
class AdamArgs:
    lr: PositiveFloat
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegativeFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    amsgrad: bool = False


@dataclass(frozen=True, kw_only=True)
class SgdArgs:
    lr: PositiveFloat
    momentum: NonNegativeFloat = 0.0
    dampening: float = 0.0
    weight_decay: NonNegativeFloat = 0.0
    nesterov: bool = False

    def check_nesterov(self) -> Iterator[str]:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            yield "nesterov: true given; allowed: with a momentum above 0 and a dampening of 0"


OPTIMIZER_ARGS: dict[str, Any] = {"adam": AdamArgs, "sgd": SgdArgs}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """`args` are those of torch.optim.Adam or torch.optim.SGD, as given in the file."""

    name: Literal["adam", "sgd"]
    args: dict[str, Any] = field(default_factory=dict)

    def check_args(self) -> Iterator[str]:
        found: list[str] = []
        read = vars(read_dataclass(OPTIMIZER_ARGS[self.name], self.args, "args", found))
        given = [*self.args]
        self.args.clear()
        self.args.update({key: read[key] for key in given if key in read})
        yield from found

    @property
    def lr(self) -> float:
        return self.args["lr"]


@dataclass(frozen=True, kw_only=True)
class MultiStepLR:
    """The learning rate is multiplied by gamma after each of these epochs."""

    milestones: list[PositiveInt]
    gamma: PositiveFloat = 0.1

    def check_order(self) -> Iterator[str]:
        if sorted(set(self.milestones)) != self.milestones:
            yield f"milestones: {show(self.milestones)} given; allowed: epochs in rising order"


@dataclass(frozen=True, kw_only=True)
class CosineLR:
    """From the optimiser's rate down to min_lr over the whole run, along half a cosine wave."""

    name: Literal["cosine"]
    warmup: NonNegativeInt = 0
    """Steps (or epochs) over which the rate first rises."""
    warmup_from: Annotated[float, AtLeast(0), Below(1)] = 0.0
    """Share of the optimiser's rate from which it rises."""
    min_lr: NonNegativeFloat = 0.0
    every: Literal["step", "epoch"] = "step"
    """What changes the rate, and what `warmup` counts."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What training minimises: see `engine.train.losses`."""

    name: Literal["l1", "charbonnier", "mse"] = "l1"
    gradient: NonNegativeFloat = 0.0
    """Weight of the L1 between the pixels' differences to their neighbours."""


@dataclass(frozen=True, kw_only=True)
class WarmupStepLR:
    """SRNO's: from the optimiser's rate to `multiplier` times it, then half a cosine wave to 0."""

    multiplier: Annotated[float, Above(1)]
    total_epoch: NonNegativeInt
    """Epochs over which it rises."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that `train_liif.py` reads from its file."""

    train_dataset: DataConfig
    val_dataset: DataConfig | None = None
    data_norm: DataNorm = DataNorm()
    model: ModelSpec
    optimizer: OptimizerConfig
    loss: LossConfig | None = None
    """L1 when absent."""
    epoch_max: PositiveInt
    multi_step_lr: MultiStepLR | None = None
    lr_schedule: CosineLR | None = None
    """Instead of multi_step_lr."""
    warmup_step_lr: WarmupStepLR | None = None
    """Instead of both."""
    resume: str | None = None
    """A checkpoint to go on from, or "auto"."""
    init: str | None = None
    """Weights to start from, a checkpoint or a name as for --model; everything else fresh."""
    epoch_val: PositiveInt | None = None
    """Epochs between validations; none without a validation set."""
    epoch_save: PositiveInt | None = None
    """Epochs between checkpoints that are kept as epoch-N.pth."""
    eval_type: str | None = None
    eval_bsize: PositiveInt | None = None
    seed: NonNegativeInt = 0
    num_workers: NonNegativeInt | None = None
    """Loader processes; as many as cores, at most 8, when absent."""
    precision: Precision = "fp32"
    compile: bool = False
    accumulate: PositiveInt = 1
    save_minutes: PositiveFloat = 10.0
    on_bad_image: Literal["stop", "skip"] = "stop"
    ema_decay: Annotated[float, Above(0), Below(1)] | None = None
    device_data: bool = False
    """Keep the training photographs on the device, and make the batches there."""
    imports: list[str] | None = None
    """Modules, or `.py` files, that register encoders, models, data sets and wrappers."""

    def check_schedules(self) -> Iterator[str]:
        names = "multi_step_lr", "lr_schedule", "warmup_step_lr"
        first, *others = [name for name in names if getattr(self, name) is not None] or [""]
        for name in others:
            yield f"{name}: given beside {first}; allowed: one of the two"

    def cosine(self) -> tuple[CosineLR | None, float]:
        """The cosine that the rate follows, if any, and its highest rate."""
        own, base = self.warmup_step_lr, self.optimizer.lr
        if own is None:
            return self.lr_schedule, base
        share = 1 / own.multiplier
        wave = CosineLR(name="cosine", warmup=own.total_epoch, warmup_from=share, every="epoch")
        return wave, base * own.multiplier

    def check_start(self) -> Iterator[str]:
        if self.resume is not None and self.init is not None:
            yield "init: given beside resume; allowed: one of the two"

    def check_loss(self) -> Iterator[str]:
        name, args = self.train_dataset.wrapper["name"], self.train_dataset.wrapper["args"]
        key = "inp_size" if name.endswith("-fast") else "sample_q"
        scattered = args.get(key) is not None and not args.get("sample_patch")
        if self.loss is not None and self.loss.gradient and scattered:
            yield (
                f"loss.gradient: {self.loss.gradient} given beside the scattered pixels of "
                f"train_dataset.wrapper {name}, {key} {args[key]}; allowed, since neighbours are "
                "compared: sample_q with sample_patch: true, or all pixels"
            )

    def check_bad_images(self) -> Iterator[str]:
        if self.device_data and self.on_bad_image == "skip":
            yield "on_bad_image: 'skip' given beside device_data; allowed: one of the two"

    def check_degrade(self) -> Iterator[str]:
        if self.device_data and self.train_dataset.wrapper["args"].get("degrade"):
            yield (
                "train_dataset.wrapper.args.degrade: given beside device_data; allowed: one of "
                "the two, since JPEG files are made by the loader's processes"
            )

    def check_eval_type(self) -> Iterator[str]:
        yield from eval_type_problems(self, "val_dataset")

    def check_accumulate(self) -> Iterator[str]:
        if self.train_dataset.batch_size % self.accumulate:
            yield (
                f"accumulate: {self.accumulate} given; allowed: divisors of the batch size "
                f"{self.train_dataset.batch_size}"
            )

    def check_min_lr(self) -> Iterator[str]:
        if self.lr_schedule is not None and self.lr_schedule.min_lr > self.optimizer.args["lr"]:
            yield (
                f"lr_schedule.min_lr: {self.lr_schedule.min_lr} given; allowed: up to the "
                f"optimiser's rate {self.optimizer.args['lr']}"
            )


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """Everything that `test.py` reads from its file."""

    __test__ = False  # pytest: not a test

    test_dataset: DataConfig
    data_norm: DataNorm = DataNorm()
    eval_type: str | None = None
    """None, `div2k-S` or `benchmark-S`, S a scale or `ROWSxCOLUMNS`."""
    eval_bsize: PositiveInt | None = None
    """The most queries at once."""
    precision: Precision = "fp32"
    num_workers: NonNegativeInt | None = None
    cell_max_scale: Annotated[float, AtLeast(1)] | None = None
    """Beyond this enlargement the cell that the model is told stays what it is there."""
    window: NonNegativeInt | None = None
    """Mirror pictures up to the next multiple of so many pixels; by default as the model has it."""
    imports: list[str] | None = None
    """As in training."""
    strips: PositiveInt | None = None
    """Rows asked as one set of a model whose colours depend on it (SRNO); None: all rows."""
    protocol: Literal["paper", "ciaosr"] = "paper"
    """How figures are taken: as in LIIF's paper, or as CiaoSR's authors do."""

    def check_eval_type(self) -> Iterator[str]:
        yield from eval_type_problems(self, "test_dataset")

    def check_protocol(self) -> Iterator[str]:
        if self.protocol == "ciaosr" and self.eval_type is not None:
            scale = parse_eval_type(self.eval_type)[1]
            if not all(factor.is_integer() for factor in scale):
                yield (
                    f"eval_type: {self.eval_type!r} given beside protocol ciaosr; allowed: whole "
                    "numbers as scale"
                )


def parse_eval_type(eval_type: str | None) -> tuple[str | None, tuple[float, float]]:
    """("benchmark" | "div2k" | None, (scale of rows, scale of columns)) of an `eval_type`.

    Raises:
        ConfigError: it is neither None nor of the form `div2k-S` or `benchmark-S`.
    """
    if eval_type is None:
        return None, (1.0, 1.0)
    number = r"[0-9]+(?:\.[0-9]+)?"
    match = re.fullmatch(rf"(div2k|benchmark)-({number})(?:x({number}))?", eval_type)
    scales = [float(text) for text in match.groups()[1:] if text] if match else [0.0]
    if match is None or min(scales) <= 0:
        raise ConfigError(
            f"eval_type: {eval_type!r} given; allowed: none, div2k-S or benchmark-S, "
            "S a scale such as 4, 2.5 or 2x3.5 (rows x columns)"
        )
    return match[1], (scales[0], scales[-1])


def eval_type_problems(config: TrainConfig | TestConfig, key: str) -> Iterator[str]:
    """What is wrong with an eval_type by itself, and for the data set `key` to be evaluated."""
    try:
        parse_eval_type(config.eval_type)
    except ConfigError as error:
        yield str(error)
    data: DataConfig | None = getattr(config, key)
    sampled = None if data is None else data.wrapper["args"].get("sample_q")
    if config.eval_type is not None and sampled is not None:
        yield (
            f"{key}.wrapper.args.sample_q: {sampled} given beside eval_type {config.eval_type!r}; "
            "allowed: none, which measures whole pictures"
        )


def read_train_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> TrainConfig:
    """The checked configuration of a training run.

    Args:
        source: a YAML file, or what one holds.
        overrides: `KEY.PATH=VALUE` texts, as given to `--set`.

    What it imports is imported.

    Raises:
        ConfigError: lists every problem.
    """
    return read_config(TrainConfig, source, overrides)


def read_test_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> TestConfig:
    """The checked configuration of a test; arguments and errors as `read_train_config`."""
    return read_config(TestConfig, source, overrides)


def read_config(cls: Any, source: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> Any:
    if isinstance(source, Mapping):
        where, layers = "configuration", [Layer("", copy.deepcopy(dict(source)))]
    else:
        where, layers = (
            str(source),
            read_layers(Path(source), inherit=cls in (TrainConfig, TestConfig)),
        )
    raw = merged(layers)
    own = raw.get("imports")
    in_files = [*own] if isinstance(own, list) else []
    apply_overrides(raw, overrides)
    if isinstance(raw.get("imports"), list):  # those of overrides lie where the script is started
        here = found_imports(raw["imports"], Path.cwd())
        pairs = zip(raw["imports"], here, strict=True)
        raw["imports"] = [name if name in in_files else found for name, found in pairs]
    import_all(raw.get("imports"), where)
    problems: list[str] = []
    config = read_dataclass(cls, raw, "", problems)
    problems = [with_origin(problem, layers, overrides) for problem in problems]
    if len(problems) > 1:
        problems = [f"{len(problems)} problems", *problems]
    if problems:
        raise ConfigError(f"{where}: " + "\n  ".join(problems))
    return config


def config_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries and lists: what its YAML file would hold."""
    return plain(dataclasses.asdict(config))


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
