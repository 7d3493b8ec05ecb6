"""RS-TinyNet, wired from its parts: backbone -> neck -> fusion -> head. With every switch off it is YOLO11.

    python -m models.rs_tinynet --table      the rows of the paper's Table III (models/table3.py)
"""
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from errors import InputError
from models.arb import ReversibleBackbone
from models.backbone import Backbone
from models.blocks import Conv
from models.head import Detect, HeadOutput
from models.mdca import MDCA, check_mdca
from models.neck import Neck
from models.pfdh import PFDH
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
    pfdh_width: int = 256       # output width of PFDH at scale m; a multiple of 32
    mdca_combine: str = "sum"   # how MDCA's channel and spatial maps combine: sum or product

    def __post_init__(self):
        if self.scale not in SCALES:
            raise InputError(f"model.scale: '{self.scale}' is not a scale. Use one of {', '.join(SCALES)}.")
        if self.num_classes < 1:
            raise InputError(f"model.num_classes: {self.num_classes} is not a number of classes. Use 1 or more.")
        if self.p2 is False and (self.mdca or self.pfdh):
            module = "mdca" if self.mdca else "pfdh"
            raise InputError(f"model.p2: false, but model.{module} works on the stride-4 level. Leave model.p2 out.")
        check_mdca(self.mdca_kernel, self.mdca_combine)
        if self.pfdh_width not in range(32, 513, 32):       # others would be rounded, or cut to the scale's largest width
            raise InputError(f"model.pfdh_width: {self.pfdh_width} is not a multiple of 32 from 32 to 512. The paper's counts "
                             "have 64 and 256.")

    @property
    def has_p2(self) -> bool:
        """Whether the network has the stride-4 level."""
        return self.p2 if self.p2 is not None else self.mdca or self.pfdh


class DetectorOutput(NamedTuple):
    """The main head's output and, in training with ARB, the auxiliary head's."""

    main: HeadOutput
    auxiliary: HeadOutput | None


class RSTinyNet(nn.Module):
    """A detector of separate concepts: backbone, neck, fusion of the levels, head, and a head that only training sees."""

    def __init__(
        self,
        config: ModelConfig,
        backbone: nn.Module,
        neck: nn.Module,
        fusion: nn.Module,
        head: Detect,
        auxiliary_head: Detect | None,
    ):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.neck = neck
        self.fusion = fusion
        self.head = head
        self.auxiliary_head = auxiliary_head

    def forward(self, images: Tensor) -> DetectorOutput:
        """Images (B, 3, H, W), RGB, floating point in 0..1, H and W multiples of 32.

        Raises:
            ValueError: H or W does not divide by 32; the caller pads.
        """
        if any(side < 1 or side % 32 for side in images.shape[-2:]):
            raise ValueError(f"images are {images.shape[-1]} x {images.shape[-2]} px: pad both sides to multiples of 32")
        features, auxiliary = self.backbone(images)
        main = self.head(self.fusion(self.neck(features)))
        if self.auxiliary_head is None or not self.training:
            return DetectorOutput(main, None)
        levels = len(self.auxiliary_head.strides)
        return DetectorOutput(main, self.auxiliary_head(list(auxiliary)[-levels:]))

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
    backbone = ReversibleBackbone(scale) if config.arb else Backbone(scale)
    attention = MDCA(config.mdca_kernel, combine=config.mdca_combine) if config.mdca else nn.Identity()
    neck = Neck(scale, backbone.widths, config.has_p2, attention)
    widths, fusion = neck.widths, nn.Identity()
    if config.pfdh:
        width = scale.channels(config.pfdh_width)
        widths, fusion = (width,) * 4, PFDH(neck.widths, width)
    strides = (4, 8, 16, 32) if config.has_p2 else (8, 16, 32)
    # Its branches are as wide as those of a head on the neck itself.
    head = Detect(config.num_classes, widths, strides, reference_width=neck.widths[0])
    auxiliary_head = None
    if config.arb:
        levels = backbone.widths[-len(strides) :]
        auxiliary_head = Detect(config.num_classes, levels, strides, reference_width=neck.widths[0])
    return RSTinyNet(config, backbone, neck, fusion, head, auxiliary_head)


if __name__ == "__main__":
    from models.table3 import main  # which needs this module: nothing else here does

    main()
