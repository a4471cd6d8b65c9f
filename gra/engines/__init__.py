"""How models are asked: one protocol, its engines, and the broker that keeps them busy."""
