"""Judging samples: feature nets, distances between sets of images, and what a backbone has learnt."""
