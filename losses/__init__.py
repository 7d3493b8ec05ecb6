"""What is minimised. Knows the shapes of head outputs and targets, and nothing else of this project."""
from losses.assigner import TaskAlignedAssigner
from losses.criterion import AssignerConfig, Criterion, LossConfig, LossTerms

__all__ = ["AssignerConfig", "Criterion", "LossConfig", "LossTerms", "TaskAlignedAssigner"]
