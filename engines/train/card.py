"""The model card: what a person should know before trusting a model."""

from __future__ import annotations

import msgspec

from engines.manifest import Manifest
from engines.train.dataset import Facts
from engines.train.judge import Verdict
from engines.train.recipe import Recipe

CARD_FILE = "MODEL_CARD.md"


def card(manifest: Manifest, facts: Facts, recipe: Recipe, verdict: Verdict, onnx_size: int) -> str:
    """Write the card as Markdown."""
    longest = facts.horizons_s[-1]
    model, prior = verdict.ranking[:2]
    ranking = "\n".join(
        f"| {judged.name} | {judged.pr_auc:.4f} | {judged.auc:.4f} | {judged.recall_at_1pct:.3f} |"
        for judged in verdict.ranking
    )
    horizons = "\n".join(
        f"| {seconds} s | {rate:.4%} | {ratio:.3f} |"
        for seconds, rate, ratio in zip(facts.horizons_s, verdict.base_rates, verdict.mean_over_base, strict=True)
    )
    reliability = "\n".join(
        f"| {step.weight:.3%} | {step.predicted:.4%} | {step.observed:.4%} |" for step in verdict.reliability
    )
    tiers = "\n".join(f"| {tier.name} | {tier.at_least:.4g} |" for tier in manifest.tiers)
    choices = "\n".join(f"{name} = {_toml(value)}" for name, value in msgspec.structs.asdict(recipe).items())
    return f"""# {manifest.name} {manifest.version}

Probability that a viewer tips in the room they are in within {facts.horizons_s[0]} s and {longest} s of an event, and
the amount to expect within {longest} s, in minor units.

- Trained on: {facts.source}
- Created: {manifest.created}; ONNX {onnx_size / 1024:.0f} KiB, SHA-256 `{manifest.sha256}`
- Feature catalogue: `{manifest.features}`, {len(manifest.columns)} features; history {manifest.history[0]} events x \
{manifest.history[1]} channels
- Labels: paid gifts and paid chats of the same viewer in the same room, strictly after the trigger; combos count once,
  reversed gifts not at all

## Held-out period

The last {recipe.test:.0%} of the rows: {verdict.rows:,} rows that stand for {verdict.events:,.0f} events. No weight,
calibration or tier was fitted on them: these are the figures of a network trained as this one was, on the rows before.
This one was then trained on all rows.

| for the {longest} s horizon | PR-AUC | AUC | recall at 1 % |
|---|---|---|---|
{ranking}

PR-AUC is {model.pr_auc / prior.pr_auc:.2f} times that of tip history alone. The simulator's line,
where there is one, is the ceiling: its own probabilities, of which it drew the tips.

| horizon | share of events with a tip | mean p over it |
|---|---|---|
{horizons}

Expected amount over amount: {verdict.value_over_amount:.3f}. Calibration error (mean gap between score and outcome over
the base rate): {verdict.calibration_error:.3f}.

| share of events | mean p | with a tip |
|---|---|---|
{reliability}

Each line holds a tenth of all that the model expects.

## Tiers

| tier | from p({longest} s) |
|---|---|
{tiers}

## Limits

It is as good as the traffic it was trained on. Simulated traffic has the shape of published statistics, not the
behaviour of anybody's viewers: train on recorded traffic before acting on scores, and watch mean p over the base rate.

## Recipe

```toml
{choices}
```
"""


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return msgspec.json.encode(value).decode()
