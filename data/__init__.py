"""Files -> batches. Knows numpy, cv2 and torch.utils.data."""
from data.batch import Batch, Targets, collate

__all__ = ["Batch", "Targets", "collate"]
