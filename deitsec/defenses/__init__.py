"""Defended models and what stands beside a model, as users build and as attackers meet them."""
