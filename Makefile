# make demo   train, test and predict on generated scenes: minutes on two CPU cores
# make test   the whole test suite
# make lint   ruff
# make gpu-check   what needs a GPU: tests, mixed precision, torch.compile, speed, a short training; one report
# Both of the first two create .venv and install requirements.txt on a fresh clone; PYTHON=... picks the interpreter.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.installed

.PHONY: demo test lint gpu-check clean-demo

demo: $(READY)
	$(PY) -m data.synthetic --output runs/demo/scenes
	$(PY) train.py --config configs/demo.toml --output runs/demo/train --resume data.root=runs/demo/scenes
	$(PY) test.py --checkpoint runs/demo/train/best.pt --split test --output runs/demo/test
	$(PY) predict.py --checkpoint runs/demo/train/best.pt --source runs/demo/scenes/images/test --output runs/demo/predict
	@echo "Look at runs/demo/predict/pictures and runs/demo/train/pictures; tensorboard --logdir runs/demo/train"

test: $(READY)
	$(PY) -m pytest

lint: $(READY)
	$(PY) -m ruff check .

gpu-check: $(READY)
	$(PY) -m benchmarks.gpu_check

clean-demo:
	rm -rf runs/demo

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(PY) -c 'import cv2' || \
	  { echo "OpenCV needs two system libraries: apt-get install libgl1 libglib2.0-0"; exit 2; }
	@touch $(READY)
