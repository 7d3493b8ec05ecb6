"""What is wrong with a data set, all of it, on one page (python -m data.check).

The loaders stop at the first thing that is wrong; this goes through everything. `survey` reads the splits leniently and
collects findings, `page` writes them down; both take plain arguments and know nothing of configurations.
"""
from data.check.page import page, to_dict
from data.check.survey import Setup, Survey, survey

__all__ = ["Setup", "Survey", "page", "survey", "to_dict"]
