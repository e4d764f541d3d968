"""The embedded data set: rendered stimuli, simulated participants, small encoders."""
