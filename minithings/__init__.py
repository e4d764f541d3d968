"""MiniTHINGS: rendered stimuli, simulated participants and small encoders.

A world small enough for the whole paper to run on a laptop, written in the file formats
of the public data sets and models. Notebook 00 makes it; nothing in paperlib knows it.
"""

import paperlib  # noqa: F401  lets torchvision load beside a CPU build of torch
