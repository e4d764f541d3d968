def recording_files(cfg, subject): return []
