"""Image-to-brain signal generation: what two notebooks share or what deserves a test.

Data flow, and the only direction in which modules import each other::

    recordings, stimuli, models -> coordinates, diffusion -> training -> generation
                                -> evaluation -> reporting

Input that is missing, damaged or does not fit raises FileNotFoundError or ValueError
with its place and a cure, before anything takes time.

Letters used in shape comments throughout:

====  ==========================================================
B     batch
N     images (conditions)
R     repetitions of an image
K     samples generated for an image
C     channels, ``C'`` after padding to whole patches
T     time points, ``T'`` after padding to whole patches
L     tokens
D     width of the transformer
S     diffusion steps of the sampler
====  ==========================================================
"""

from paperlib.torchvision_operators import prepare_for_torchvision

prepare_for_torchvision()
