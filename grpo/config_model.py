"""Configuration of a model: made on the spot or pretrained, and what a question becomes for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cotree.grpo.config_algorithm import PositiveFloat, PositiveInt, Strict


class NewNetwork(Strict):
    """Random weights and a character tokenizer, made on the spot."""

    max_positions: PositiveInt = 512
    """Longest sequence the position embedding is built for, in tokens."""


class NewModel(NewNetwork):
    """A Qwen3 decoder."""

    type: Literal["new"]
    layers: PositiveInt = 4
    width: PositiveInt = 192
    heads: PositiveInt = 6
    kv_heads: PositiveInt = 2
    head_dim: Annotated[int, Field(ge=32)] = 32
    """vLLM's CPU attention accepts 32, 64, 80, 96, 112, 128, 160, 192, 224, 256."""
    mlp_width: PositiveInt = 512


class NewDeepseekModel(NewNetwork):
    """A DeepSeek-V3 decoder: multi-head latent attention and a mixture of experts.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 2.1.
    """

    type: Literal["new_deepseek_v3"]
    layers: PositiveInt = 4
    dense_layers: Annotated[int, Field(ge=0)] = 1
    """Layers, from the first, whose feed-forward part has no experts."""
    width: PositiveInt = 128
    heads: PositiveInt = 4
    kv_rank: PositiveInt = 512
    """Width of the latent keys and values. vLLM's CPU attention needs 512 beside rope_dim 64."""
    query_rank: PositiveInt | None = None
    """Width of the latent queries; left out, they are not compressed."""
    nope_dim: PositiveInt = 32
    """Of a head's query and key, without position."""
    rope_dim: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    """Of a head's query and the shared key, with position."""
    value_dim: PositiveInt = 32
    mlp_width: PositiveInt = 384
    """Of the dense layers."""
    experts: Annotated[int, Field(ge=2)] = 8
    experts_per_token: PositiveInt = 2
    expert_width: PositiveInt = 128
    shared_experts: PositiveInt = 1
    groups: PositiveInt = 1
    groups_per_token: PositiveInt = 1
    """Groups of experts that a token's experts may come from."""
    scaling: PositiveFloat = 1.0
    """Of the routed experts' weights, after they were normalised."""
    mtp_layers: Literal[0, 1] = 0
    """Multi-token prediction modules behind the layers (paper, sec. 2.2), which `learner.mtp`
    trains and `generator.speculation.type = "mtp"` drafts with."""

    @model_validator(mode="after")
    def _experts_can_be_routed(self) -> NewDeepseekModel:
        if self.dense_layers >= self.layers:
            raise ValueError(
                f"dense_layers = {self.dense_layers} of layers = {self.layers} leave none with "
                "experts; lower it."
            )
        if self.experts % self.groups or self.groups_per_token > self.groups:
            raise ValueError(
                f"experts = {self.experts} must be a multiple of groups = {self.groups}, of which "
                f"a token may use groups_per_token = {self.groups_per_token}."
            )
        reach = self.experts // self.groups * self.groups_per_token
        if self.experts_per_token > reach:
            raise ValueError(
                f"experts_per_token = {self.experts_per_token} exceeds the {reach} experts in "
                f"groups_per_token = {self.groups_per_token} groups."
            )
        if self.groups > 1 and self.experts // self.groups < 2:
            raise ValueError("a group is scored by its two best experts; give each two or more.")
        return self


class PretrainedModel(Strict):
    """A Hugging Face checkpoint: a local folder or a hub name. Remote code is never executed."""

    type: Literal["pretrained"]
    path: str
    revision: str | None = None
    """Hub commit or tag; pin one to make a run repeatable."""


Model = Annotated[NewModel | NewDeepseekModel | PretrainedModel, Field(discriminator="type")]


class Prompt(Strict):
    """How a question becomes the policy's prompt."""

    template: str = "{question}\n"
    """Must contain `{question}`; other braces are kept as they are."""
    chat: bool = False
    """Wrap the text as a user turn with the tokenizer's own chat template."""
    system: str | None = None
    """System turn; needs `chat = true`."""

    @model_validator(mode="after")
    def _has_the_question(self) -> Prompt:
        if "{question}" not in self.template:
            raise ValueError(f"prompt.template = {self.template!r} has no {{question}} in it.")
        if self.system is not None and not self.chat:
            raise ValueError(
                "prompt.system has no effect without prompt.chat = true; set it or drop it."
            )
        return self
