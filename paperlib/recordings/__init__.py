"""Public files to arrays: THINGS-EEG2 and THINGS-MEG readers, MVNN, regions."""
