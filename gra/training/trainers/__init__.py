"""Trainers for SFT, DPO and distillation."""
