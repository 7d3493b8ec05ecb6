"""The network. Knows torch and nothing else of this project."""
import warnings

from models.head import HeadOutput, decode
from models.rs_tinynet import DetectorOutput, ModelConfig, RSTinyNet, build_model

__all__ = ["DetectorOutput", "HeadOutput", "ModelConfig", "RSTinyNet", "build_model", "decode"]

# `python -m models.rs_tinynet` finds its module loaded by this package, and warns. Nothing is shared: it runs models/table3.py.
warnings.filterwarnings("ignore", "'models.rs_tinynet' found in sys.modules", RuntimeWarning)
