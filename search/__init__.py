"""Strategies of test-time compute, steps as segments. Never imports torch, ray or vllm."""
