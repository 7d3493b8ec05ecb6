"""TOML -> Config: frozen dataclasses, one per concept; an unknown key is an error that names the nearest known one.

A file may name another in `base = "..."` (relative to itself) and then holds only what differs. `key=value` arguments,
such as train.epochs=50, come last and win.
"""
import dataclasses
import difflib
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from data.transforms import AugmentConfig
from errors import InputError
from eval.coco import Protocol, customized
from eval.scoring import PROTOCOLS
from losses import AssignerConfig, LossConfig
from models import ModelConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the images and annotations lie. Paths are relative to `root`."""

    root: str = ""
    train: str = ""                     # COCO JSON; or, ending in .txt, a VOC image list
    val: str = ""                       # empty: no validation, best.pt is the last EMA
    test: str = ""
    images: str = "images"              # folder that the file names start from; for VOC searched with its subfolders
    annotations: str = "Annotations"    # folder of a VOC list's XML files, likewise
    classes: tuple[str, ...] = ()       # COCO: names to keep, in this order; VOC: all names; empty: what the files hold
    cache: str = "none"                 # none, disk or ram: where decoded images are kept
    cache_dir: str = "pixel_cache"      # folder of the cache on disk

    def __post_init__(self):
        _choice("data.cache", self.cache, ("none", "disk", "ram"))
        if not self.cache_dir:
            raise InputError("data.cache_dir: is empty. Name a folder, or leave the key out for pixel_cache in data.root.")


@dataclass(frozen=True)
class TrainConfig:
    """The recipe (YOLO11's, as the paper uses it); every length of time is in epochs."""

    epochs: int = 600
    batch_size: int = 16                # images over all ranks
    nominal_batch: int = 64             # gradients are accumulated until this many images were seen
    image_size: int = 800               # pixels, a multiple of 32
    lr: float = 0.01
    final_lr: float = 0.01              # share of lr that the rate falls to, one step short of it in the last epoch
    momentum: float = 0.937
    weight_decay: float = 5e-4
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    clip_norm: float = 10.0
    ema_decay: float = 0.9999
    ema_updates: float = 2000.0         # the decay approaches ema_decay with this time constant, in optimizer steps
    close_mosaic: int = 10              # last epochs without mosaic
    validate_every: int = 1             # epochs
    max_steps: int = 0                  # stop after this many batches, at the next optimizer step; 0: never
    device: str = "auto"                # auto, cpu or cuda
    amp: str = "off"                    # off, fp16 or bf16
    compile: bool = False               # torch.compile the network; the first steps of each image size take minutes
    sync_batchnorm: str = "auto"        # on, off, or auto: on GPUs with fewer than 8 images each
    precise_batchnorm: int = 0          # training images that its statistics are taken anew from before validation; 0: not
    save_minutes: float = 10.0          # last.pt is written this often besides at each epoch's end; 0: then only
    max_bad_steps: int = 20             # steps in a row with numbers that are not finite, which end the run
    seed: int = 0
    workers: int = 4                    # processes that read images, per rank

    def __post_init__(self):
        _choice("train.device", self.device, ("auto", "cpu", "cuda"))
        _choice("train.amp", self.amp, ("off", "fp16", "bf16"))
        _choice("train.sync_batchnorm", self.sync_batchnorm, ("auto", "on", "off"))
        for name in ("epochs", "batch_size", "nominal_batch", "image_size", "validate_every", "max_bad_steps"):
            _at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("lr", "final_lr", "weight_decay", "warmup_epochs", "warmup_bias_lr", "workers", "max_steps", "seed",
                     "close_mosaic", "save_minutes", "precise_batchnorm"):
            _at_least(f"train.{name}", getattr(self, name), 0)
        for name in ("momentum", "warmup_momentum", "ema_decay"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"train.{name}: {getattr(self, name)} is outside 0..1, both excluded.")
        for name in ("clip_norm", "ema_updates"):
            if not getattr(self, name) > 0:
                raise InputError(f"train.{name}: {getattr(self, name)} is not above 0.")
        if self.image_size % 32:
            below = max(self.image_size // 32 * 32, 32)
            raise InputError(
                f"train.image_size: {self.image_size} does not divide by 32. Use {below} or {below + 32}."
            )


@dataclass(frozen=True)
class EvalConfig:
    """How detections are made and scored."""

    protocol: str = "aitod"             # aitod, coco or voc: how AP is taken, and at which sizes
    conf: float = 0.001                 # lowest score kept
    nms: float = 0.7                    # IoU above which the weaker of two boxes of a class is dropped
    max_det: int = 3000                 # detections kept in an image, over all classes
    batch_size: int = 16                # images, per rank
    area_ranges: tuple[str, ...] = ()   # in place of the protocol's: "name:low:high" in square pixels
    limits: tuple[int, ...] = ()        # in place of the protocol's: detections of a class in an image; AP takes the last
    olrp: bool = False                  # oLRP and its parts too

    def __post_init__(self):
        _choice("eval.protocol", self.protocol, tuple(PROTOCOLS))
        self.scoring()
        if self.protocol == "voc" and (self.area_ranges or self.limits or self.olrp):
            key = "area_ranges" if self.area_ranges else "limits" if self.limits else "olrp"
            raise InputError(f"eval.{key}: changes COCO's figures, but eval.protocol is voc. Use coco, or drop it.")
        for name in ("conf", "nms"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"eval.{name}: {getattr(self, name)} is outside 0..1.")
        _at_least("eval.max_det", self.max_det, 1)
        _at_least("eval.batch_size", self.batch_size, 1)

    def scoring(self) -> Protocol:
        """The protocol with what these keys change of it."""
        return customized(PROTOCOLS[self.protocol], self.area_ranges, self.limits, self.olrp)


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def to_dict(self) -> dict:
        """Nested dicts of plain values, as from_dict reads them."""
        plain = dataclasses.asdict(self)
        return {section: {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
                for section, values in plain.items()}


# The keys whose values are texts, whatever they look like.
TEXTS = {(section.name, key.name) for section in dataclasses.fields(Config)
         for key in dataclasses.fields(section.default_factory) if key.type is str}


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a TOML file and what it is based on, then apply `section.key=value` overrides."""
    tree = _read(Path(path), seen=())
    _apply_overrides(tree, overrides or [])
    model = tree.get("model")
    if isinstance(model, dict) and "num_classes" in model:      # else from_dict tells
        raise InputError("model.num_classes: the data set decides the number of classes. Remove the key.")
    return from_dict(tree, str(path))


def from_dict(tree: dict, origin: str, overrides: list[str] | None = None) -> Config:
    """Build a Config from nested dicts.

    Args:
        origin: what to name in errors.
        overrides: `section.key=value`, applied to a copy of the tree first.
    """
    tree = {name: dict(values) if isinstance(values, dict) else values for name, values in tree.items()}
    _apply_overrides(tree, overrides or [])
    sections = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    built = {}
    for name, values in tree.items():
        if name not in sections:
            raise InputError(f"{origin}: unknown section '{name}'. {_nearest(name, sections)}")
        if not isinstance(values, dict):
            raise InputError(f"{origin}: '{name}' is a section. Write [{name}] and its keys below.")
        built[name] = _build(sections[name], name, values, origin)
    return Config(**built)


def _read(path: Path, seen: tuple[Path, ...]) -> dict:
    """A TOML file merged over its bases."""
    if path.resolve() in seen:
        raise InputError(f"{path}: 'base' leads back to this file. Break the circle.")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else Path("configs")
        names = [str(p) for p in sorted(folder.glob("**/*.toml"))]
        raise InputError(f"{path}: no such config. {_nearest(str(path), names) if names else 'Name a TOML file.'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Name a TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}.") from None
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise InputError(f"{path}: base must be the name of a file, not {base!r}.")
    merged = _read(path.parent / base, (*seen, path.resolve()))
    for name, values in tree.items():
        if isinstance(values, dict) and isinstance(merged.get(name), dict):
            merged[name] = {**merged[name], **values}
        else:
            merged[name] = values
    return merged


def _apply_overrides(tree: dict, overrides: list[str]) -> None:
    """Write `section.key=value` arguments into the tree; values are TOML, a bare word is a string."""
    for argument in overrides:
        key, equals, text = argument.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and section and name):
            raise InputError(f"'{argument}': not an override. Write section.key=value, such as train.epochs=50.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        if (section, name) in TEXTS and not isinstance(value, str):        # a folder may be called 2024, or true
            value = text
        if not isinstance(tree.setdefault(section, {}), dict):
            raise InputError(f"'{argument}': '{section}' is not a section.")
        tree[section][name] = value


def _build(cls: type, section: str, values: dict, origin: str) -> object:
    """One section's dataclass, every value checked against its annotation."""
    hints = typing.get_type_hints(cls)
    checked = {}
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{origin}: unknown key '{section}.{name}'. {_nearest(name, hints, f'{section}.')}")
        checked[name] = _convert(f"{origin}: {section}.{name}", value, hints[name])
    return cls(**checked)


def _convert(where: str, value: object, hint: object) -> object:
    """The value as its annotated type; an int is a fine float, nothing else is converted."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is float and type(value) in (int, float):
            if math.isfinite(value):
                return float(value)
        elif typing.get_origin(option) is tuple:
            kind = typing.get_args(option)[0]
            items = value if isinstance(value, list) else [value]
            if isinstance(value, str):                  # as on a command line: 1,100,1500
                items = [v.strip() for v in value.split(",") if v.strip()]
                if kind is int and all(v.isascii() and v.isdigit() for v in items):
                    items = [int(v) for v in items]
            if all(type(v) is kind for v in items):
                return tuple(items)
        elif option is int and type(value) is int and abs(value) >= 2**63:
            raise InputError(f"{where}: {value} has too many digits. Use a number below 2^63.")
        elif type(value) is option:
            return value
    names = {float: "a finite number", int: "a whole number", bool: "true or false", str: "a text",
             tuple[str, ...]: "a list of texts", tuple[int, ...]: "a list of whole numbers"}
    expected = " or ".join(names[o] for o in options if o is not types.NoneType)
    raise InputError(f"{where}: {value!r} is not {expected}.")


def _nearest(name: str, known: typing.Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"Did you mean '{prefix}{close[0]}'?" if close else f"Known: {', '.join(list(known)[:30])}."


def _choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{key}: '{value}' is not one of {', '.join(allowed)}.")


def _at_least(key: str, value: float, low: float) -> None:
    if value < low:
        raise InputError(f"{key}: {value} is too small. Use {low} or more.")
