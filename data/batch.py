"""What the loader hands over: images, flat targets, and where each image came from."""
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import default_collate


@dataclass
class Targets:
    """Objects of a batch in one flat list, never padded: a batch of 1 and one of 10,000 objects cost what they hold."""

    boxes: Tensor           # (N, 4) float32, xyxy pixels of the network's input
    labels: Tensor          # (N,) int64
    image_index: Tensor     # (N,) int64, which image of the batch, ascending

    @classmethod
    def none(cls) -> "Targets":
        """No object."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))

    def to(self, device: torch.device, non_blocking: bool = False) -> "Targets":
        """A copy on a device."""
        return Targets(*(x.to(device, non_blocking=non_blocking) for x in vars(self).values()))

    def pin_memory(self) -> "Targets":
        """A copy in page-locked memory."""
        return Targets(*(x.pin_memory() for x in vars(self).values()))


@dataclass(frozen=True)
class ImageMeta:
    """Where an image of a batch came from. It lies in the top-left corner; padding is right and below."""

    image_id: int
    path: str
    width: int                      # original pixels
    height: int
    scale: tuple[float, float]      # network pixels per original pixel, along x and y


@dataclass
class Sample:
    """One image, ready to be collated."""

    image: Tensor           # (3, H, W) uint8 RGB
    boxes: Tensor           # (n, 4) float32, xyxy network pixels
    labels: Tensor          # (n,) int64
    meta: ImageMeta


@dataclass
class Batch:
    """B images of one size."""

    images: Tensor          # (B, 3, H, W) uint8 RGB
    targets: Targets
    meta: list[ImageMeta]

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """A copy on a device; the images stay uint8."""
        images = self.images.to(device, non_blocking=non_blocking)
        return Batch(images, self.targets.to(device, non_blocking), self.meta)

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory, from which transfers to a GPU need not be waited for."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.meta)


def collate(samples: list[Sample]) -> Batch:
    """Join samples of one size."""
    return join(default_collate([s.image for s in samples]), samples)       # in a worker it stacks into shared memory


def join(images: Tensor, samples: list[Sample]) -> Batch:
    """A batch of samples whose images lie in one tensor (B, 3, H, W) already."""
    counts = torch.tensor([len(s.labels) for s in samples])
    targets = Targets(
        boxes=torch.cat([s.boxes for s in samples]),
        labels=torch.cat([s.labels for s in samples]),
        image_index=torch.arange(len(samples)).repeat_interleave(counts),
    )
    return Batch(images, targets, [s.meta for s in samples])
