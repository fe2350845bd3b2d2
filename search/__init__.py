"""Reasoning steps as token-exact segments. Never imports torch, ray or vllm."""
