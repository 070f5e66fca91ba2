"""What is learned, and all that the toolkit asks of it: a task owns its configuration, loss, health, cost and names.

`task` is the protocol, `registry` the one place that lists tasks. wav2vec 2.0 is `wav2vec2` (its loss: `contrastive`),
HuBERT is `hubert` (`masked_prediction`), fine-tuning is `recognition` (`ctc`). An installed package adds its own by the
entry point `speechssl.tasks`, see docs/how_to/new_objective.md.
"""
