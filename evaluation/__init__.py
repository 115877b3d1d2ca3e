"""Figures from predictions, and matchers that make them; knows no network but by its answers."""
