"""`make demo`: the main job on real data, handwritten digits, in under four minutes."""
