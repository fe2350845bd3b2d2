"""Strategies of test-time compute; steps as token-exact segments. Never imports torch, ray or vllm."""
