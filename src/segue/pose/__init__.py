"""Poses: keypoints, matching and paths of people, skeletons for ControlNets, and detectors."""
