"""The network. Knows torch and nothing else of this project."""
from models.head import HeadOutput, decode
from models.network import DetectorOutput, ModelConfig, RSTinyNet, build_model

__all__ = ["DetectorOutput", "HeadOutput", "ModelConfig", "RSTinyNet", "build_model", "decode"]
