"""Detections -> figures: COCO and AI-TOD average precision in NumPy alone; knows nothing of models, data or engine."""
