"""Data of any form in; batches, calibration data and the four splits of a task out."""
