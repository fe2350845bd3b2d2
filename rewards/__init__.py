"""Graders, step scorers and reward plugins. Never imports torch, ray or vllm."""
