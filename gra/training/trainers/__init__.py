"""Trainers of TRL for SFT, DPO and distillation."""
