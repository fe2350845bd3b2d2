"""`cotree distill`."""

from __future__ import annotations

from cotree.grpo.cli_boundary import Debug, Json, boundary
from cotree.grpo.cli_stage import Config, Overrides, Resume, show_result, stage
from cotree.grpo.reward_terms import bound_rewards
from cotree.grpo.run_folder import load_pipeline


def distill(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = False,
    json_lines: Json = False,
    debug: Debug = False,
) -> None:
    """Teach a small student what a teacher knows: by its texts, its logits, or on the fly."""
    with boundary(debug=debug):
        pipeline = load_pipeline(config, overrides or [])
        bound_rewards(pipeline)
        with stage(pipeline):
            from cotree.grpo.distilling.stage import distill_stage

            result = distill_stage(pipeline, resume=resume, json_lines=json_lines)
        show_result(result, json_lines=json_lines)
