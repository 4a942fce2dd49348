"""The zoo: couple, cut and verify every torchvision classifier, timm family and transformers family."""
