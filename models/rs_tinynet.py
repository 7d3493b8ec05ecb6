"""RS-TinyNet, wired from its parts: backbone -> neck -> head. With every switch off it is YOLO11."""
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from errors import InputError
from models.backbone import Backbone
from models.blocks import Conv
from models.head import Detect, HeadOutput
from models.neck import Neck
from models.scaling import SCALES


@dataclass(frozen=True)
class ModelConfig:
    """Which network to build; the switches are the columns of the paper's Table III."""

    scale: str = "m"            # n, s, m, l or x
    num_classes: int = 8
    mdca: bool = False          # multi-dimensional collaborative attention on the stride-4 level
    arb: bool = False           # auxiliary reversible branch
    pfdh: bool = False          # progressive fusion detection head
    p2: bool | None = None      # the stride-4 level; None: on when mdca or pfdh is on
    mdca_kernel: int = 3        # channels that MDCA's 1-D convolutions see; odd
    pfdh_width: int = 256       # output width of PFDH at scale m

    def __post_init__(self):
        if self.scale not in SCALES:
            raise InputError(f"model.scale: '{self.scale}' is not a scale. Use one of {', '.join(SCALES)}.")
        if self.num_classes < 1:
            raise InputError(f"model.num_classes: {self.num_classes} is not a number of classes. Use 1 or more.")
        for name in ("mdca", "arb", "pfdh"):
            if getattr(self, name):
                raise InputError(f"model.{name}: this module is not built yet. Set model.{name}=false.")

    @property
    def has_p2(self) -> bool:
        """Whether the network has the stride-4 level."""
        return self.p2 if self.p2 is not None else self.mdca or self.pfdh


class DetectorOutput(NamedTuple):
    """The main head's output and, in training with ARB, the auxiliary head's."""

    main: HeadOutput
    auxiliary: HeadOutput | None


class RSTinyNet(nn.Module):
    """A detector of four concepts: backbone, neck, head, and an auxiliary head that only training sees."""

    def __init__(self, config: ModelConfig, backbone: nn.Module, neck: nn.Module, head: Detect):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.auxiliary_head: Detect | None = None

    def forward(self, images: Tensor) -> DetectorOutput:
        """Images (B, 3, H, W), RGB, floating point in 0..1, H and W multiples of 32.

        Raises:
            ValueError: H or W does not divide by 32; the caller pads.
        """
        if images.shape[-1] % 32 or images.shape[-2] % 32:
            raise ValueError(f"images are {images.shape[-1]} x {images.shape[-2]} px: pad both sides to multiples of 32")
        return DetectorOutput(self.head(self.neck(self.backbone(images))), None)

    def reported_parameters(self) -> int:
        """Parameters as the paper counts them: without the training-only auxiliary head."""
        auxiliary = self.auxiliary_head.parameters() if self.auxiliary_head is not None else ()
        return sum(p.numel() for p in self.parameters()) - sum(p.numel() for p in auxiliary)

    def deploy(self) -> "RSTinyNet":
        """Drop the auxiliary head, fold every BatchNorm into its convolution and go to evaluation mode, in place."""
        self.auxiliary_head = None
        for module in self.modules():
            if isinstance(module, Conv):
                module.fold()
        return self.eval()


def build_model(config: ModelConfig) -> RSTinyNet:
    """Build the network; its weights are drawn from torch's global generator."""
    scale = SCALES[config.scale]
    backbone = Backbone(scale)
    neck = Neck(scale, backbone.widths, p2=config.has_p2, attention=nn.Identity())
    strides = (4, 8, 16, 32) if config.has_p2 else (8, 16, 32)
    return RSTinyNet(config, backbone, neck, Detect(config.num_classes, neck.widths, strides))
